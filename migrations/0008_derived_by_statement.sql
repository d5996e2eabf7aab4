-- Up Migration

-- The server's own statements say themselves what a run is after the change: they know the definition by a join, once for
-- all rows, where runs_before_write looks it up for each row and is called as another user for that. Of what PostgreSQL
-- did for a batch of 64, that was a third to a half (docs/decisions/0017). A statement that does so advances the version
-- itself, and is one that is a transaction by itself (baton.append is 'statement'); for all other SQL, also of a trigger
-- that a user has put on the table, runs_before_write derives everything as before.

-- Says why a status is refused; never returns.
create function baton.refuse_status(pipeline text, status text) returns void
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if not exists (select from baton.pipelines p where p.name = refuse_status.pipeline) then
    raise exception using
      errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_pipeline_exists',
      message = pg_catalog.format('there is no pipeline %L', refuse_status.pipeline);
  end if;
  raise exception using
    errcode = 'check_violation', schema = 'baton', table = 'runs', constraint = 'runs_status_of_pipeline',
    message = pg_catalog.format('pipeline %L has no status %L', refuse_status.pipeline, refuse_status.status),
    hint = pg_catalog.format('its statuses are: %s', (
      select pg_catalog.string_agg(ps.status, ', ' order by ps.status)
      from baton.pipeline_statuses ps where ps.pipeline = refuse_status.pipeline));
end
$$;

revoke execute on function baton.refuse_status(text, text) from public;

-- As in 0005, with the check that runs_before_write made of each row.
create or replace function baton.runs_append_created() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  -- A statement that found nothing to do has nothing to tell either.
  if not exists (select from new_runs) then return null; end if;
  -- No statement may leave a run in a status that its pipeline does not have, or that means something else there. The
  -- lock is held until commit, as by a foreign key: a definition is not replaced under runs that are being moved by it.
  perform from baton.pipelines p where p.name in (select n.pipeline from new_runs n) order by p.name for key share;
  perform baton.refuse_status(n.pipeline, n.status)
    from new_runs n
    where not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = n.pipeline and ps.status = n.status and ps.stage = n.stage and ps.state = n.state)
    limit 1;
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  )
  select
    pg_catalog.nextval('baton.revision'), 'CREATED', '', '', null,
    n.id, n.pipeline, n.stage, n.status, n.state, n.repository, n.labels, n.output, n.error_code,
    n.error_message, n.priority, n.concurrency_key, n.attempt, n.attempts_allowed, n.worker_id,
    n.lease_id, n.lease_expire_time, n.schedule_time, n.cancel_requested, n.progress, n.status_message, n.checkpoint,
    n.version, n.create_time, n.update_time, n.start_time, n.end_time, n.request_id, n.trace_parent, null
  from new_runs n;
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

create or replace function baton.runs_append_updated() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if not exists (select from new_runs) then return null; end if;
  -- No statement may leave a run in a status that its pipeline does not have, or that means something else there. The
  -- lock is held until commit, as by a foreign key: a definition is not replaced under runs that are being moved by it.
  perform from baton.pipelines p where p.name in (select n.pipeline from new_runs n join old_runs o on o.id = n.id where n.status <> o.status) order by p.name for key share;
  perform baton.refuse_status(n.pipeline, n.status)
    from new_runs n join old_runs o on o.id = n.id where n.status <> o.status
    and not exists (
      select from baton.pipeline_statuses ps
      where ps.pipeline = n.pipeline and ps.status = n.status and ps.stage = n.stage and ps.state = n.state)
    limit 1;
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  )
  select
    pg_catalog.nextval('baton.revision'), t.type, o.status, o.stage, o.state,
    n.id, n.pipeline, n.stage, n.status, n.state, n.repository, n.labels, n.output, n.error_code,
    n.error_message, n.priority, n.concurrency_key, n.attempt, n.attempts_allowed, n.worker_id,
    coalesce(n.lease_id, o.lease_id), n.lease_expire_time, n.schedule_time, n.cancel_requested, n.progress,
    n.status_message, n.checkpoint, n.version, n.create_time, n.update_time, n.start_time, n.end_time, n.request_id,
    n.trace_parent,
    case when t.type = 'CLAIMED' then greatest(n.update_time - o.claimable_time, interval '0') end
  from new_runs n
  join old_runs o on o.id = n.id
  cross join lateral (
    select baton.event_type_of(
      o.status, o.stage, o.state, o.cancel_requested, o.attempt,
      n.status, n.stage, n.state, n.cancel_requested, n.attempt, n.error_code) as type
  ) t
  where n.version <> o.version;
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

drop trigger runs_before_insert on baton.runs;
create trigger runs_before_insert before insert on baton.runs
  for each row
  when (new.version is null or pg_catalog.current_setting('baton.append', true) is distinct from 'statement')
  execute function baton.runs_before_write();

-- As in 0006 and 0003, but for what such a statement has done already.
drop trigger runs_before_update on baton.runs;
create trigger runs_before_update
  before update of stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt,
    max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time,
    cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash
  on baton.runs
  for each row
  when (not (new.version = old.version + 1 and pg_catalog.current_setting('baton.append', true) is not distinct from 'statement') and (
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

drop trigger runs_status_time_on_update on baton.runs;
create trigger runs_status_time_on_update before update on baton.runs
  for each row when (
    not (new.version = old.version + 1 and pg_catalog.current_setting('baton.append', true) is not distinct from 'statement')
    and (new.status is distinct from old.status or new.status_time is distinct from old.status_time))
  execute function baton.runs_keep_status_time();

-- Down Migration

drop trigger runs_status_time_on_update on baton.runs;
create trigger runs_status_time_on_update before update on baton.runs
  for each row when (new.status is distinct from old.status or new.status_time is distinct from old.status_time)
  execute function baton.runs_keep_status_time();

drop trigger runs_before_update on baton.runs;
create trigger runs_before_update
  before update of stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt,
    max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time,
    cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash
  on baton.runs
  for each row
  when ((
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

drop trigger runs_before_insert on baton.runs;
create trigger runs_before_insert before insert on baton.runs
  for each row execute function baton.runs_before_write();

create or replace function baton.runs_append_created() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  -- A statement that found nothing to do has nothing to tell either.
  if not exists (select from new_runs) then return null; end if;
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  )
  select
    pg_catalog.nextval('baton.revision'), 'CREATED', '', '', null,
    n.id, n.pipeline, n.stage, n.status, n.state, n.repository, n.labels, n.output, n.error_code,
    n.error_message, n.priority, n.concurrency_key, n.attempt, n.attempts_allowed, n.worker_id,
    n.lease_id, n.lease_expire_time, n.schedule_time, n.cancel_requested, n.progress, n.status_message, n.checkpoint,
    n.version, n.create_time, n.update_time, n.start_time, n.end_time, n.request_id, n.trace_parent, null
  from new_runs n;
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

create or replace function baton.runs_append_updated() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  if not exists (select from new_runs) then return null; end if;
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  )
  select
    pg_catalog.nextval('baton.revision'), t.type, o.status, o.stage, o.state,
    n.id, n.pipeline, n.stage, n.status, n.state, n.repository, n.labels, n.output, n.error_code,
    n.error_message, n.priority, n.concurrency_key, n.attempt, n.attempts_allowed, n.worker_id,
    coalesce(n.lease_id, o.lease_id), n.lease_expire_time, n.schedule_time, n.cancel_requested, n.progress,
    n.status_message, n.checkpoint, n.version, n.create_time, n.update_time, n.start_time, n.end_time, n.request_id,
    n.trace_parent,
    case when t.type = 'CLAIMED' then greatest(n.update_time - o.claimable_time, interval '0') end
  from new_runs n
  join old_runs o on o.id = n.id
  cross join lateral (
    select baton.event_type_of(
      o.status, o.stage, o.state, o.cancel_requested, o.attempt,
      n.status, n.stage, n.state, n.cancel_requested, n.attempt, n.error_code) as type
  ) t
  where n.version <> o.version;
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

drop function baton.refuse_status(text, text);
