-- Up Migration

-- The server's own statements say themselves what a run is after the change: they know the definition by a join, once for
-- all rows, where runs_before_write looks it up for each row and is called as another user for that. Of what PostgreSQL
-- did for a batch of 64, that was a third to a half (docs/decisions/0017). A statement that does so advances the version
-- itself, and has said with baton.append how its events get into the log; for all other SQL, also of a trigger that a user
-- has put on the table, runs_before_write derives everything as before.

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

-- What runs_before_write saw to for each row: no statement may leave a run in a status that its pipeline does not have, or
-- that means something else there. The lock is held until commit, as by a foreign key: a definition is not replaced under
-- runs that are being moved by it. By their names these triggers come before runs_append_*, whose lock has to be the last.
create function baton.runs_admit_created() returns trigger
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

create function baton.runs_admit_updated() returns trigger
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

revoke execute on function baton.runs_admit_created(), baton.runs_admit_updated() from public;

create trigger runs_admit_created after insert on baton.runs
  referencing new table as new_runs for each statement
  when (pg_catalog.current_setting('baton.append', true) in ('statement', 'row'))
  execute function baton.runs_admit_created();

create trigger runs_admit_updated after update on baton.runs
  referencing old table as old_runs new table as new_runs for each statement
  when (pg_catalog.current_setting('baton.append', true) in ('statement', 'row'))
  execute function baton.runs_admit_updated();

drop trigger runs_before_insert on baton.runs;
create trigger runs_before_insert before insert on baton.runs
  for each row
  when (
    new.version is null
    or coalesce(pg_catalog.current_setting('baton.append', true), '') not in ('statement', 'row'))
  execute function baton.runs_before_write();

-- As in 0006 and 0003, but for what such a statement has done already.
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

-- A status and its time that come together from such a statement are left as they are.
drop trigger runs_status_time_on_update on baton.runs;
create trigger runs_status_time_on_update before update on baton.runs
  for each row when (
    (new.status is distinct from old.status) <> (new.status_time is distinct from old.status_time)
    or new.status is distinct from old.status
      and coalesce(pg_catalog.current_setting('baton.append', true), '') not in ('statement', 'row'))
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

drop trigger runs_admit_created on baton.runs;
drop trigger runs_admit_updated on baton.runs;
drop function baton.runs_admit_created(), baton.runs_admit_updated(), baton.refuse_status(text, text);
