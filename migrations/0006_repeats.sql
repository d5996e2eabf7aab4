-- Up Migration

-- The lease under which a ClaimNext was repeated and given the same claims again. The answer of the first call may turn
-- out not to have got out only after that, and what is handed back then must not be what the repeat was given.
-- No change of the run: the triggers below do not name it.
alter table baton.runs add column repeated_lease bigint;

-- An update that says what is already there is no change: a worker that repeats a report after a lost reply leaves no
-- second event.
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

-- Down Migration

drop trigger runs_before_update on baton.runs;
create trigger runs_before_update
  before update of stage, status, state, output, error_code, error_message, priority, concurrency_key, attempt,
    max_attempts, attempts_allowed, worker_id, claim_request_id, attempt_time, ended_stage, lease_number, lease_id, lease_ms, schedule_time, claimable_time,
    cancel_requested, progress, status_message, checkpoint, version, update_time, start_time, end_time, request_hash
  on baton.runs
  for each row execute function baton.runs_before_write();

alter table baton.runs drop column repeated_lease;
