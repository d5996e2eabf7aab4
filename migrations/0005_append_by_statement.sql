-- Up Migration

-- What a change was, by the run before and after it.
create function baton.event_type_of(
  old_status text, old_stage text, old_state baton.run_state, old_cancel_requested boolean, old_attempt integer,
  new_status text, new_stage text, new_state baton.run_state, new_cancel_requested boolean, new_attempt integer,
  new_error_code text
) returns baton.event_type
  language sql immutable parallel safe
  as $$
    select case
      when old_status is null then 'CREATED'::baton.event_type
      when new_status = old_status and new_stage = old_stage then
        case when new_cancel_requested and not old_cancel_requested then 'CANCEL_REQUESTED'::baton.event_type
        else 'UPDATED'::baton.event_type end
      when new_state = 'SUCCEEDED' then 'SUCCEEDED'::baton.event_type
      when new_state = 'FAILED' then 'FAILED'::baton.event_type
      when new_state = 'CANCELED' then 'CANCELED'::baton.event_type
      when new_state = 'ACTIVE' then
        case when old_state = 'PENDING' then 'CLAIMED'::baton.event_type else 'UPDATED'::baton.event_type end
      when old_state = 'ACTIVE' then
        case
          when new_stage <> old_stage then 'STAGE_COMPLETED'::baton.event_type
          when new_attempt < old_attempt then 'RELEASED'::baton.event_type
          when new_error_code in ('LEASE_EXPIRED', 'ATTEMPT_TIMED_OUT') then 'LEASE_EXPIRED'::baton.event_type
          else 'RETRY_SCHEDULED'::baton.event_type
        end
      when old_state = 'PENDING' then 'UPDATED'::baton.event_type
      else 'RETRIED'::baton.event_type
    end
  $$;

-- As in 0003, with the type from above.
create or replace function baton.runs_append_event() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  inserted constant boolean := tg_op = 'INSERT';
  kind baton.event_type;
begin
  if inserted then
    kind := 'CREATED';
  else
    kind := baton.event_type_of(
      old.status, old.stage, old.state, old.cancel_requested, old.attempt,
      new.status, new.stage, new.state, new.cancel_requested, new.attempt, new.error_code);
  end if;

  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  ) values (
    pg_catalog.nextval('baton.revision'), kind,
    case when inserted then '' else old.status end,
    case when inserted then '' else old.stage end,
    case when inserted then null else old.state end,
    new.id, new.pipeline, new.stage, new.status, new.state, new.repository, new.labels, new.output, new.error_code,
    new.error_message, new.priority, new.concurrency_key, new.attempt, new.attempts_allowed, new.worker_id,
    case when new.lease_id is null and not inserted then old.lease_id else new.lease_id end,
    new.lease_expire_time, new.schedule_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint,
    new.version, new.create_time, new.update_time, new.start_time, new.end_time, new.request_id, new.trace_parent,
    -- Plain SQL may take a run before its time.
    case when kind = 'CLAIMED' then greatest(new.update_time - old.claimable_time, interval '0') end
  );
  -- A doorbell without contents: listeners read the log. Many in one transaction are delivered as one.
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

-- The same for all rows of one statement at once, for the server's own statements that are a transaction by
-- themselves: they say so with set_config('baton.append', 'statement', true), and the end of such a statement is the
-- last step before its commit, as the deferred trigger's place is. A third of the time that PostgreSQL spends on a
-- batch of 500 goes into the events otherwise (per row: created 41 µs by the deferred trigger, 28 by this, 22 without
-- a log; updated 47, 33, 26). In a longer transaction it would hold the lock of the log to its end, so everything else
-- is left to the deferred trigger.
create function baton.runs_append_created() returns trigger
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

create function baton.runs_append_updated() returns trigger
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

drop trigger runs_append_event_on_insert on baton.runs;
drop trigger runs_append_event_on_update on baton.runs;

create constraint trigger runs_append_event_on_insert after insert on baton.runs
  deferrable initially deferred for each row
  when (pg_catalog.current_setting('baton.append', true) is distinct from 'statement')
  execute function baton.runs_append_event();

create constraint trigger runs_append_event_on_update after update on baton.runs
  deferrable initially deferred for each row
  when (new.version <> old.version and pg_catalog.current_setting('baton.append', true) is distinct from 'statement')
  execute function baton.runs_append_event();

create trigger runs_append_created after insert on baton.runs
  referencing new table as new_runs for each statement
  when (pg_catalog.current_setting('baton.append', true) = 'statement')
  execute function baton.runs_append_created();

create trigger runs_append_updated after update on baton.runs
  referencing old table as old_runs new table as new_runs for each statement
  when (pg_catalog.current_setting('baton.append', true) = 'statement')
  execute function baton.runs_append_updated();

revoke execute on function baton.runs_append_created(), baton.runs_append_updated() from public;

-- Every step of a run leaves a dead row, and a page with room keeps the next version near by. VACUUM comes after some
-- thousand dead rows and does not rest, because claims walk over what it has not removed yet.
alter table baton.runs set (
  fillfactor = 80,
  autovacuum_vacuum_scale_factor = 0.02,
  autovacuum_vacuum_threshold = 2000,
  autovacuum_analyze_scale_factor = 0.05,
  autovacuum_analyze_threshold = 2000,
  autovacuum_vacuum_cost_delay = 0
);

-- Down Migration

alter table baton.runs reset (
  fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold, autovacuum_analyze_scale_factor,
  autovacuum_analyze_threshold, autovacuum_vacuum_cost_delay
);

drop trigger runs_append_created on baton.runs;
drop trigger runs_append_updated on baton.runs;
drop trigger runs_append_event_on_insert on baton.runs;
drop trigger runs_append_event_on_update on baton.runs;

create constraint trigger runs_append_event_on_insert after insert on baton.runs
  deferrable initially deferred for each row execute function baton.runs_append_event();

create constraint trigger runs_append_event_on_update after update on baton.runs
  deferrable initially deferred for each row when (new.version <> old.version)
  execute function baton.runs_append_event();

create or replace function baton.runs_append_event() returns trigger
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
declare
  inserted constant boolean := tg_op = 'INSERT';
  kind baton.event_type;
begin
  if inserted then
    kind := 'CREATED';
  elsif new.status = old.status and new.stage = old.stage then
    kind := case when new.cancel_requested and not old.cancel_requested then 'CANCEL_REQUESTED' else 'UPDATED' end;
  elsif new.state not in ('PENDING', 'ACTIVE') then
    kind := new.state::text::baton.event_type;
  elsif new.state = 'ACTIVE' then
    kind := case when old.state = 'PENDING' then 'CLAIMED' else 'UPDATED' end;
  elsif old.state = 'ACTIVE' then
    kind := case
      when new.stage <> old.stage then 'STAGE_COMPLETED'
      when new.attempt < old.attempt then 'RELEASED'
      when new.error_code in ('LEASE_EXPIRED', 'ATTEMPT_TIMED_OUT') then 'LEASE_EXPIRED'
      else 'RETRY_SCHEDULED'
    end;
  elsif old.state = 'PENDING' then
    kind := 'UPDATED';
  else
    kind := 'RETRIED';
  end if;

  -- From here to the commit: 0001 says why.
  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent, waited
  ) values (
    pg_catalog.nextval('baton.revision'), kind,
    case when inserted then '' else old.status end,
    case when inserted then '' else old.stage end,
    case when inserted then null else old.state end,
    new.id, new.pipeline, new.stage, new.status, new.state, new.repository, new.labels, new.output, new.error_code,
    new.error_message, new.priority, new.concurrency_key, new.attempt, new.attempts_allowed, new.worker_id,
    case when new.lease_id is null and not inserted then old.lease_id else new.lease_id end,
    new.lease_expire_time, new.schedule_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint,
    new.version, new.create_time, new.update_time, new.start_time, new.end_time, new.request_id, new.trace_parent,
    -- Plain SQL may take a run before its time.
    case when kind = 'CLAIMED' then greatest(new.update_time - old.claimable_time, interval '0') end
  );
  -- A doorbell without contents: listeners read the log. Many in one transaction are delivered as one.
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

drop function baton.runs_append_created(), baton.runs_append_updated(), baton.event_type_of;
