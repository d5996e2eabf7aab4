import type { Run } from '../../run/run.js';
import { appendBy, appendMode } from '../append_sql.js';
import { hasKey } from '../key_sql.js';
import { FOR_UPDATE, IS_UNDER_LEASE, isLive, leaseEnd, type OnLocked } from '../lease_sql.js';
import type { LeaseKey } from '../lease_token.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/** The wait before the next attempt of a run (alias r has `attempt`) in its stage (alias s), in milliseconds. */
export const RETRY_DELAY_MS = `(
  least(s.backoff_max_ms, s.backoff_initial_ms * power(s.backoff_multiplier, least(greatest(r.attempt, 1) - 1, 50)))
  * (1 - s.backoff_jitter * random())
)`;

/** How many attempts a run (alias r) has in its stage (alias s), by the definition as it is now. */
export const ATTEMPTS_ALLOWED = 'coalesce(r.max_attempts, s.max_attempts)';

/** What an update (alias plan) does to a run (alias r), by what was decided for it. */
const MOVES = `plan.action <> 'PROGRESS'`;
const COMPLETES = `(plan.action = 'COMPLETE' and not plan.cancels)`;
const WAITS = `plan.to_state = 'PENDING'`;
const ENDS = `plan.to_state in ('SUCCEEDED', 'FAILED', 'CANCELED')`;
/** A report of progress without news renews the lease and is no change. */
const CHANGES = `(${MOVES} or (
    coalesce(plan.output::jsonb, r.output), coalesce(plan.progress, r.progress),
    coalesce(plan.status_message, r.status_message), coalesce(plan.checkpoint::jsonb, r.checkpoint)
  ) is distinct from (r.output, r.progress, r.status_message, r.checkpoint))`;

/**
 * What is decided of each item, of which the parameters are $1 to $12: the step after `held`, whose rows are locked.
 * Rows whose lease does not fit or has ended by the database's clock, and items whose status, error or output is not
 * allowed from here, are not in it; why is decided in one place, by the service. Rows are locked in order of id, so that
 * two batches cannot wait for each other.
 */
export const planned = (onLocked: OnLocked): string => `item as materialized (
  select i.*
  from unnest(
    $1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::boolean[], $9::float8[],
    $10::float8[], $11::text[], $12::text[]
  ) with ordinality as i (
    run_id, lease_number, lease_id, status, output, error_code, error_message, retryable, retry_delay_ms, progress,
    status_message, checkpoint, position
  )
), held as materialized (
  -- Values of the locked row: the snapshot's may be older, and a cancel that was just committed must not be missed.
  -- Row by row through the key, because the planner takes a batch for reason enough to read every live lease.
  -- The item goes along: joined again by position, 500 items took 30 µs more each.
  select i.*, held.*
  from (select * from item order by run_id) i
  cross join lateral (
    select r.pipeline, r.stage, r.attempt, r.max_attempts, r.attempt_time, r.cancel_requested, r.lease_ms,
      r.state, r.lease_expire_time
    from baton.runs r
    where r.id = i.run_id and ${IS_UNDER_LEASE}
    offset 0 ${FOR_UPDATE[onLocked]}
  ) held
  where ${isLive('held')}
), step as materialized (
  -- status is the reported one, and so are output, error, progress, status message and checkpoint.
  select
    r.*, s.waiting_status, p.canceled_status,
    -- A run whose cancel was requested does not wait again, for this stage or the next.
    r.cancel_requested and (
      r.status = s.waiting_status
      or exists (
        select from baton.pipeline_statuses ps
        where ps.pipeline = r.pipeline and ps.status = r.status and ps.state = 'PENDING')
    ) as cancels,
    case r.status
      when s.done_status then 'COMPLETE'
      when p.error_status then case
        when r.retryable and r.attempt < ${ATTEMPTS_ALLOWED} and not r.cancel_requested then 'RETRY' else 'FAIL'
      end
      when p.canceled_status then 'CANCEL'
      when s.waiting_status then 'RELEASE'
      when s.processing_status then 'PROGRESS'
    end as action,
    ${ATTEMPTS_ALLOWED} as attempts_allowed,
    ${RETRY_DELAY_MS} as backoff_ms,
    ${leaseEnd('r.lease_ms', 'r', 's')} as renewed_to,
    -- After the row was locked.
    clock_timestamp() as time
  from held r
  -- Row by row through the keys, here and below: the plan is kept while pipelines are added; see hasKey.
  cross join lateral (
    select s.* from baton.stages s where s.pipeline = r.pipeline and s.name = r.stage offset 0
  ) s
  cross join lateral (select p.* from baton.pipelines p where p.name = r.pipeline offset 0) p
), planned as materialized (
  -- With what the status means to which the run goes.
  select
    step.*, ps.status as to_status, ps.stage as to_stage, ps.state as to_state, s.max_attempts as to_max_attempts,
    case
      when step.action = 'RETRY'
        then step.time + coalesce(step.retry_delay_ms, step.backoff_ms) * interval '1 millisecond'
    end as retry_time
  from step
  cross join lateral (
    select ps.*
    from baton.pipeline_statuses ps
    where ps.pipeline = step.pipeline and ps.status = case
      when step.cancels then step.canceled_status
      when step.action = 'RETRY' then step.waiting_status
      else step.status
    end
    offset 0
  ) ps
  left join lateral (
    select s.max_attempts from baton.stages s where s.pipeline = ps.pipeline and s.name = ps.stage offset 0
  ) s on true
  where step.action is not null
    and (step.error_code is null or step.action in ('RETRY', 'FAIL'))
    and (step.output is null or step.action in ('COMPLETE', 'PROGRESS', 'RETRY', 'FAIL'))
)`;

/**
 * Moves the runs of `plan`, each by the one rule that its reported status names. It says itself what `runs_before_write`
 * derives for other SQL (migration 0008); a test holds that both agree.
 */
export const UPDATED = `
update baton.runs r set
  status = plan.to_status,
  -- A report of progress leaves them alone, whatever the definition has become since this statement began.
  stage = case when ${MOVES} then plan.to_stage else r.stage end,
  state = case when ${MOVES} then plan.to_state else r.state end,
  status_time = case when ${MOVES} then plan.time else r.status_time end,
  version = r.version + case when ${CHANGES} then 1 else 0 end,
  update_time = case when ${CHANGES} then plan.time else r.update_time end,
  output = coalesce(plan.output::jsonb, r.output),
  error_code = case
    when plan.action in ('RETRY', 'FAIL') then coalesce(plan.error_code, '')
    when ${COMPLETES} then null
    else r.error_code
  end,
  error_message = case
    when plan.action in ('RETRY', 'FAIL') then coalesce(plan.error_message, '')
    when ${COMPLETES} then null
    else r.error_message
  end,
  attempt = case
    when plan.action = 'RELEASE' then greatest(r.attempt - 1, 0)
    when ${COMPLETES} and ${WAITS} then 0
    else r.attempt
  end,
  attempts_allowed = case
    when ${MOVES} then coalesce(
      r.max_attempts, plan.to_max_attempts,
      case when plan.action in ('RETRY', 'FAIL') then plan.attempts_allowed else r.attempts_allowed end)
    else r.attempts_allowed
  end,
  schedule_time = coalesce(plan.retry_time, r.schedule_time),
  claimable_time = case
    when ${WAITS} then greatest(plan.time, coalesce(plan.retry_time, r.schedule_time)) else r.claimable_time
  end,
  progress = case when plan.to_state = 'SUCCEEDED' then 1 else coalesce(plan.progress, r.progress) end,
  status_message = coalesce(plan.status_message, r.status_message),
  -- Of use to another attempt of this stage only, and there will be none.
  checkpoint = case when plan.action = 'COMPLETE' then null else coalesce(plan.checkpoint::jsonb, r.checkpoint) end,
  lease_id = case when ${MOVES} then null else r.lease_id end,
  lease_ms = case when ${MOVES} then null else r.lease_ms end,
  -- A lease that was extended further than this is not shortened.
  lease_expire_time = case when ${MOVES} then null else greatest(r.lease_expire_time, plan.renewed_to) end,
  ended_stage = case when ${ENDS} then r.stage else r.ended_stage end,
  start_time = case when ${ENDS} then coalesce(r.start_time, plan.time) else r.start_time end,
  end_time = case when ${ENDS} then plan.time else r.end_time end
from append cross join plan
where ${hasKey('r.id', 'plan.run_id')}
returning plan.position, ${runColumns('r')}`;

const sql = (onLocked: OnLocked): Statement => ({
  name: `update_runs_${onLocked}`,
  text: `
with ${appendBy('$13')}, ${planned(onLocked)}, plan as (select * from planned)${UPDATED}`,
});
// One that waits is kept from the connections of those that do not.
const SQL = { wait: sql('wait').text, skip: sql('skip') };

export interface RunUpdate {
  readonly runId: string;
  readonly lease: LeaseKey;
  readonly status: string;
  /** JSON text of an object, like the checkpoint. */
  readonly output: string | undefined;
  /** Set where the worker sent an error, '' included. */
  readonly errorCode: string | undefined;
  readonly errorMessage: string | undefined;
  readonly retryable: boolean;
  readonly retryDelayMs: number | undefined;
  readonly progress: number | undefined;
  readonly statusMessage: string | undefined;
  readonly checkpoint: string | undefined;
}

const LEASE_IS_LIVE = `
select exists (
  select from baton.runs r
  where r.id = $1::uuid and r.lease_number = $2::bigint and r.lease_id = $3::uuid
    and ${isLive('r')}
) as live`;

/** Whether this lease may change the run at this moment, by the database's clock. */
export async function isLeaseLive(db: Queryable, runId: string, lease: LeaseKey): Promise<boolean> {
  const [row] = await db.query<{ live: boolean }>(LEASE_IS_LIVE, [runId, lease.number, lease.id]);
  return row?.live ?? false;
}

/** Twelve parameters of a statement. */
export function updateValues(updates: readonly RunUpdate[]): unknown[] {
  return [
    updates.map((update) => update.runId),
    updates.map((update) => update.lease.number),
    updates.map((update) => update.lease.id),
    updates.map((update) => update.status),
    updates.map((update) => update.output ?? null),
    updates.map((update) => update.errorCode ?? null),
    updates.map((update) => update.errorMessage ?? null),
    updates.map((update) => update.retryable),
    updates.map((update) => update.retryDelayMs ?? null),
    updates.map((update) => update.progress ?? null),
    updates.map((update) => update.statusMessage ?? null),
    updates.map((update) => update.checkpoint ?? null),
  ];
}

/**
 * @param updates at most one per run
 * @param onLocked with 'wait', nothing is refused before it is known what became of a change under way; with 'skip', an
 *   update of a run that is locked by somebody else is refused too
 * @returns for each update the run as it is now, or undefined where the update was refused
 */
export async function updateRuns(
  db: Queryable,
  updates: readonly RunUpdate[],
  onLocked: OnLocked = 'wait',
): Promise<(Run | undefined)[]> {
  const rows = await db.query<RunRow & { position: bigint }>(SQL[onLocked], [
    ...updateValues(updates),
    appendMode(db),
  ]);
  const runs: (Run | undefined)[] = updates.map(() => undefined);
  for (const row of rows) runs[Number(row.position) - 1] = decodeRun(row);
  return runs;
}
