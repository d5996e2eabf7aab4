-- Up Migration

-- For how long the run could have been claimed before this claim: set for CLAIMED, and null in events from before this
-- migration. The run's own claimable_time is overwritten by what follows the claim, and earlier events do not tell it
-- after a schedule or a delay was changed, so it is taken down when the claim is made.
alter table baton.run_events add column waited interval;

-- As in 0001, and with the wait.
create or replace function baton.runs_append_event() returns trigger
  language plpgsql
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

-- Down Migration

create or replace function baton.runs_append_event() returns trigger
  language plpgsql
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

  perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);
  insert into baton.run_events (
    revision, type, previous_status, previous_stage, previous_state,
    run_id, pipeline, stage, status, state, repository, labels, output, error_code, error_message, priority,
    concurrency_key, attempt, attempts_allowed, worker_id, lease_id, lease_expire_time, schedule_time,
    cancel_requested, progress, status_message, checkpoint, version, create_time, update_time, start_time, end_time,
    request_id, trace_parent
  ) values (
    pg_catalog.nextval('baton.revision'), kind,
    case when inserted then '' else old.status end,
    case when inserted then '' else old.stage end,
    case when inserted then null else old.state end,
    new.id, new.pipeline, new.stage, new.status, new.state, new.repository, new.labels, new.output, new.error_code,
    new.error_message, new.priority, new.concurrency_key, new.attempt, new.attempts_allowed, new.worker_id,
    case when new.lease_id is null and not inserted then old.lease_id else new.lease_id end,
    new.lease_expire_time, new.schedule_time, new.cancel_requested, new.progress, new.status_message, new.checkpoint,
    new.version, new.create_time, new.update_time, new.start_time, new.end_time, new.request_id, new.trace_parent
  );
  -- A doorbell without contents: listeners read the log. Many in one transaction are delivered as one.
  perform pg_catalog.pg_notify('baton_log', '');
  return null;
end
$$;

alter table baton.run_events drop column waited;
