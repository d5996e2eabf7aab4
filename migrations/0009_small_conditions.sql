-- Up Migration

-- The condition of a trigger is stored as a tree of text, which PostgreSQL reads anew for each statement. The comparison of
-- 29 columns was a seventh of a small claim or update, which never needed it: only what runs_before_write is called
-- for is compared, and inside of it, where it is read once in a session.
drop trigger runs_before_update on baton.runs;
create trigger runs_before_update
  before update of stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt,
    max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time,
    cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash
  on baton.runs
  for each row
  when (not (
    new.version = old.version + 1
    and coalesce(pg_catalog.current_setting('baton.append', true), '') in ('statement', 'row')))
  execute function baton.runs_before_write();

-- As in 0007, with the comparison that was the trigger's, and with the words of baton.refuse_status.
create or replace function baton.runs_before_write() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  meaning record;
  moved boolean := tg_op = 'INSERT';
begin
  if tg_op = 'INSERT' then
    if new.status is null then
      select p.initial_status into new.status from baton.pipelines p where p.name = new.pipeline;
    end if;
    new.version := 1;
    -- The time of the statement: runs of one batch are claimed in the order of their ids, not in that of their rows.
    new.create_time := pg_catalog.statement_timestamp();
    new.update_time := new.create_time;
    new.claimable_time := greatest(new.create_time, new.schedule_time);
  else
    -- Says what is there already: no change, whoever repeats it.
    if (
      old.stage, old.status, old.state, old.output, old.error_code, old.error_message, old.priority,
      old.concurrency_key, old.attempt, old.max_attempts, old.attempts_allowed, old.worker_id, old.claim_request_id,
      old.attempt_time, old.ended_stage, old.lease_number, old.lease_id, old.lease_ms, old.schedule_time,
      old.claimable_time, old.cancel_requested, old.progress, old.status_message, old.checkpoint, old.version,
      old.update_time, old.start_time, old.end_time, old.request_hash
    ) is not distinct from (
      new.stage, new.status, new.state, new.output, new.error_code, new.error_message, new.priority,
      new.concurrency_key, new.attempt, new.max_attempts, new.attempts_allowed, new.worker_id, new.claim_request_id,
      new.attempt_time, new.ended_stage, new.lease_number, new.lease_id, new.lease_ms, new.schedule_time,
      new.claimable_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint, new.version,
      new.update_time, new.start_time, new.end_time, new.request_hash
    ) then return new; end if;
    new.version := old.version + 1;
    new.update_time := pg_catalog.clock_timestamp();
    moved := (new.status, new.stage, new.state) is distinct from (old.status, old.stage, old.state);
    if new.schedule_time is distinct from old.schedule_time then
      new.claimable_time := greatest(new.update_time, new.schedule_time);
    end if;
  end if;

  if not moved then
    if new.max_attempts is distinct from old.max_attempts then
      select coalesce(new.max_attempts, s.max_attempts, old.attempts_allowed) into new.attempts_allowed
        from (select) as one left join baton.stages s on s.pipeline = new.pipeline and s.name = new.stage;
    end if;
    return new;
  end if;

  -- Held until commit, as by a foreign key: a definition is not replaced under a run that is just being moved by it.
  perform from baton.pipelines p where p.name = new.pipeline for key share;
  select ps.stage, ps.state, s.max_attempts into meaning
    from baton.pipeline_statuses ps
    left join baton.stages s on s.pipeline = ps.pipeline and s.name = ps.stage
    where ps.pipeline = new.pipeline and ps.status = new.status;
  if not found then
    perform baton.refuse_status(new.pipeline, new.status);
  end if;

  new.stage := meaning.stage;
  new.state := meaning.state;

  -- The status means another stage since its pipeline was redefined, or plain SQL wrote what is derived: the run has
  -- not moved, and keeps its lease and its place.
  if tg_op = 'UPDATE' and new.status = old.status and new.state = old.state then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, old.attempts_allowed);
    return new;
  end if;

  if tg_op = 'INSERT' then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, 1);
    if new.state = 'ACTIVE' then
      new.attempt := greatest(new.attempt, 1);
      new.attempt_time := new.create_time;
      new.start_time := coalesce(new.start_time, new.create_time);
    elsif new.state <> 'PENDING' then
      new.start_time := coalesce(new.start_time, new.create_time);
      new.end_time := coalesce(new.end_time, new.create_time);
    end if;
    return new;
  end if;

  -- A status that was reached without a new lease ends the old one: its token no longer fits.
  if new.lease_number = old.lease_number then
    new.lease_id := null;
    new.lease_ms := null;
    new.lease_expire_time := null;
  end if;
  -- The definition as it is at this step, also within a stage: its number may have changed since the run came here. A
  -- run that has failed keeps the number by which that was decided.
  new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, new.attempts_allowed);

  if new.state = 'ACTIVE' then
    if old.state <> 'ACTIVE' or new.stage <> old.stage then
      new.attempt := case when new.stage = old.stage then old.attempt + 1 else 1 end;
      new.attempt_time := new.update_time;
      new.start_time := coalesce(old.start_time, new.update_time);
      new.progress := 0;
      new.status_message := '';
      -- The error of an attempt before; its history keeps it.
      new.error_code := null;
      new.error_message := null;
      -- Taken by plain SQL that does not say who it is: nobody's name is better than the last worker's.
      if new.lease_number = old.lease_number and new.worker_id = old.worker_id then
        new.worker_id := '';
      end if;
    end if;
    new.end_time := null;
  elsif new.state = 'PENDING' then
    new.claimable_time := greatest(new.update_time, new.schedule_time);
    new.end_time := null;
    if old.state not in ('PENDING', 'ACTIVE') then
      new.cancel_requested := false;
      new.progress := 0;
    end if;
    if new.stage <> old.stage then
      new.attempt := 0;
      new.checkpoint := null;
      -- A stage that was completed leaves no error behind; RetryRun starts clean too.
      new.error_code := null;
      new.error_message := null;
    end if;
  else
    if old.stage <> '' then
      new.ended_stage := old.stage;
    end if;
    new.end_time := new.update_time;
    new.start_time := coalesce(old.start_time, new.update_time);
    if new.state = 'SUCCEEDED' then
      new.error_code := null;
      new.error_message := null;
      new.progress := 1;
    end if;
  end if;
  return new;
end
$$;

-- As in 0008, but that the rows are read once: a batch has few distinct statuses, and reading wide rows again was a
-- tenth of a batch of creates.
create or replace function baton.runs_admit_created() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  pipelines text[];
  stages text[];
  statuses text[];
  states baton.run_state[];
begin
  select array_agg(d.pipeline), array_agg(d.stage), array_agg(d.status), array_agg(d.state)
    into pipelines, stages, statuses, states
    from (select distinct n.pipeline, n.stage, n.status, n.state from new_runs n) d;
  if pipelines is null then return null; end if;
  perform from baton.pipelines p where p.name = any (pipelines) order by p.name for key share;
  -- In a snapshot of its own, from after the lock.
  perform baton.refuse_status(d.pipeline, d.status)
    from unnest(pipelines, stages, statuses, states) as d (pipeline, stage, status, state)
    where not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = d.pipeline and ps.status = d.status and ps.stage = d.stage and ps.state = d.state)
    limit 1;
  return null;
end
$$;

create or replace function baton.runs_admit_updated() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  pipelines text[];
  stages text[];
  statuses text[];
  states baton.run_state[];
begin
  select array_agg(d.pipeline), array_agg(d.stage), array_agg(d.status), array_agg(d.state)
    into pipelines, stages, statuses, states
    from (select distinct n.pipeline, n.stage, n.status, n.state from new_runs n join old_runs o on o.id = n.id where n.status <> o.status) d;
  if pipelines is null then return null; end if;
  perform from baton.pipelines p where p.name = any (pipelines) order by p.name for key share;
  -- In a snapshot of its own, from after the lock.
  perform baton.refuse_status(d.pipeline, d.status)
    from unnest(pipelines, stages, statuses, states) as d (pipeline, stage, status, state)
    where not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = d.pipeline and ps.status = d.status and ps.stage = d.stage and ps.state = d.state)
    limit 1;
  return null;
end
$$;

-- Down Migration

create or replace function baton.runs_admit_created() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform from baton.pipelines p
    where p.name in (select n.pipeline from new_runs n)
    order by p.name
    for key share;
  perform baton.refuse_status(n.pipeline, n.status)
    from new_runs n
    where not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = n.pipeline and ps.status = n.status and ps.stage = n.stage and ps.state = n.state)
    limit 1;
  return null;
end
$$;

create or replace function baton.runs_admit_updated() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  perform from baton.pipelines p
    where p.name in (select n.pipeline from new_runs n join old_runs o on o.id = n.id where n.status <> o.status)
    order by p.name
    for key share;
  perform baton.refuse_status(n.pipeline, n.status)
    from new_runs n join old_runs o on o.id = n.id where n.status <> o.status
    and not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = n.pipeline and ps.status = n.status and ps.stage = n.stage and ps.state = n.state)
    limit 1;
  return null;
end
$$;

create or replace function baton.runs_before_write() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  meaning record;
  moved boolean := tg_op = 'INSERT';
begin
  if tg_op = 'INSERT' then
    if new.status is null then
      select p.initial_status into new.status from baton.pipelines p where p.name = new.pipeline;
    end if;
    new.version := 1;
    -- The time of the statement: runs of one batch are claimed in the order of their ids, not in that of their rows.
    new.create_time := pg_catalog.statement_timestamp();
    new.update_time := new.create_time;
    new.claimable_time := greatest(new.create_time, new.schedule_time);
  else
    new.version := old.version + 1;
    new.update_time := pg_catalog.clock_timestamp();
    moved := (new.status, new.stage, new.state) is distinct from (old.status, old.stage, old.state);
    if new.schedule_time is distinct from old.schedule_time then
      new.claimable_time := greatest(new.update_time, new.schedule_time);
    end if;
  end if;

  if not moved then
    if new.max_attempts is distinct from old.max_attempts then
      select coalesce(new.max_attempts, s.max_attempts, old.attempts_allowed) into new.attempts_allowed
        from (select) as one left join baton.stages s on s.pipeline = new.pipeline and s.name = new.stage;
    end if;
    return new;
  end if;

  -- Held until commit, as by a foreign key: a definition is not replaced under a run that is just being moved by it.
  perform from baton.pipelines p where p.name = new.pipeline for key share;
  select ps.stage, ps.state, s.max_attempts into meaning
    from baton.pipeline_statuses ps
    left join baton.stages s on s.pipeline = ps.pipeline and s.name = ps.stage
    where ps.pipeline = new.pipeline and ps.status = new.status;
  if not found then
    if not exists (select from baton.pipelines p where p.name = new.pipeline) then
      raise exception using
        errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_pipeline_exists',
        message = pg_catalog.format('there is no pipeline %L', new.pipeline);
    end if;
    raise exception using
      errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_status_of_pipeline',
      message = pg_catalog.format('pipeline %L has no status %L', new.pipeline, new.status),
      hint = pg_catalog.format('its statuses are: %s', (
        select pg_catalog.string_agg(ps.status, ', ' order by ps.status)
        from baton.pipeline_statuses ps where ps.pipeline = new.pipeline));
  end if;

  new.stage := meaning.stage;
  new.state := meaning.state;

  -- The status means another stage since its pipeline was redefined, or plain SQL wrote what is derived: the run has
  -- not moved, and keeps its lease and its place.
  if tg_op = 'UPDATE' and new.status = old.status and new.state = old.state then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, old.attempts_allowed);
    return new;
  end if;

  if tg_op = 'INSERT' then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, 1);
    if new.state = 'ACTIVE' then
      new.attempt := greatest(new.attempt, 1);
      new.attempt_time := new.create_time;
      new.start_time := coalesce(new.start_time, new.create_time);
    elsif new.state <> 'PENDING' then
      new.start_time := coalesce(new.start_time, new.create_time);
      new.end_time := coalesce(new.end_time, new.create_time);
    end if;
    return new;
  end if;

  -- A status that was reached without a new lease ends the old one: its token no longer fits.
  if new.lease_number = old.lease_number then
    new.lease_id := null;
    new.lease_ms := null;
    new.lease_expire_time := null;
  end if;
  -- The definition as it is at this step, also within a stage: its number may have changed since the run came here. A
  -- run that has failed keeps the number by which that was decided.
  new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, new.attempts_allowed);

  if new.state = 'ACTIVE' then
    if old.state <> 'ACTIVE' or new.stage <> old.stage then
      new.attempt := case when new.stage = old.stage then old.attempt + 1 else 1 end;
      new.attempt_time := new.update_time;
      new.start_time := coalesce(old.start_time, new.update_time);
      new.progress := 0;
      new.status_message := '';
      -- The error of an attempt before; its history keeps it.
      new.error_code := null;
      new.error_message := null;
      -- Taken by plain SQL that does not say who it is: nobody's name is better than the last worker's.
      if new.lease_number = old.lease_number and new.worker_id = old.worker_id then
        new.worker_id := '';
      end if;
    end if;
    new.end_time := null;
  elsif new.state = 'PENDING' then
    new.claimable_time := greatest(new.update_time, new.schedule_time);
    new.end_time := null;
    if old.state not in ('PENDING', 'ACTIVE') then
      new.cancel_requested := false;
      new.progress := 0;
    end if;
    if new.stage <> old.stage then
      new.attempt := 0;
      new.checkpoint := null;
      -- A stage that was completed leaves no error behind; RetryRun starts clean too.
      new.error_code := null;
      new.error_message := null;
    end if;
  else
    if old.stage <> '' then
      new.ended_stage := old.stage;
    end if;
    new.end_time := new.update_time;
    new.start_time := coalesce(old.start_time, new.update_time);
    if new.state = 'SUCCEEDED' then
      new.error_code := null;
      new.error_message := null;
      new.progress := 1;
    end if;
  end if;
  return new;
end
$$;

drop trigger runs_before_update on baton.runs;
create trigger runs_before_update
  before update of stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt,
    max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time,
    cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash
  on baton.runs
  for each row
  when (not (new.version = old.version + 1 and coalesce(pg_catalog.current_setting('baton.append', true), '') in ('statement', 'row')) and (
      old.stage, old.status, old.state, old.output, old.error_code, old.error_message, old.priority,
      old.concurrency_key, old.attempt, old.max_attempts, old.attempts_allowed, old.worker_id, old.claim_request_id,
      old.attempt_time, old.ended_stage, old.lease_number, old.lease_id, old.lease_ms, old.schedule_time,
      old.claimable_time, old.cancel_requested, old.progress, old.status_message, old.checkpoint, old.version,
      old.update_time, old.start_time, old.end_time, old.request_hash
    ) is distinct from (
      new.stage, new.status, new.state, new.output, new.error_code, new.error_message, new.priority,
      new.concurrency_key, new.attempt, new.max_attempts, new.attempts_allowed, new.worker_id, new.claim_request_id,
      new.attempt_time, new.ended_stage, new.lease_number, new.lease_id, new.lease_ms, new.schedule_time,
      new.claimable_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint, new.version,
      new.update_time, new.start_time, new.end_time, new.request_hash
    ))
  execute function baton.runs_before_write();
