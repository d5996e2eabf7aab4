-- Up Migration

-- As in 0001, but that every move takes the number of attempts anew, where only a move to another stage did. A run meets
-- the definition of its pipeline at each step, so a stage that is given more attempts gives them to the runs that wait.
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

-- Down Migration

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
  if new.stage <> old.stage then
    new.attempts_allowed := coalesce(new.max_attempts, meaning.max_attempts, old.attempts_allowed);
  end if;

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
