import type { Claim } from '../../run/run.js';
import { leaseEnd } from '../lease_sql.js';
import { encodeLeaseToken } from '../lease_token.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/**
 * Claims runs of one stage for several waiting workers at once. The rows are taken in claim order, locked rows are
 * passed over, and row k goes to the worker in whose range of places k falls. The lease number grows with every claim,
 * which is what fences off the worker before. A paused pipeline or stage gives nothing. One row comes back even
 * without a claim, and says whether there is such a stage. The clock is read in a subquery, once, so that it can be a
 * condition of the index: 50 ms against 0.2 ms behind 200,000 runs that are not due.
 */
const sql = (candidates: string, limits: string): string => `
with stage as materialized (
  select s.pipeline, s.name, s.processing_status, s.lease_ms, s.timeout_ms, clock_timestamp() as attempt_time
  from baton.stages s
  join baton.pipelines p on p.name = s.pipeline
  where s.pipeline = $1::text and s.name = $2::text and not s.paused and not p.paused
    and ${limits}
), slot as materialized (
  select
    w.waiter, w.worker_id, w.request_id, nullif(w.lease_ms, 0) as lease_ms,
    sum(w.runs) over (order by w.waiter) - w.runs as above,
    sum(w.runs) over (order by w.waiter) as upto
  from unnest($3::text[], $4::bigint[], $5::int[], $7::text[]) with ordinality as w (worker_id, lease_ms, runs, request_id, waiter)
), locked as materialized (
  select r.id, r.priority, r.claimable_time
  from baton.runs r
  where exists (select from stage)
    and ${candidates}
  for update of r skip locked
), picked as materialized (
  select l.id, row_number() over (order by l.priority desc, l.claimable_time, l.id) as place from locked l
), claimed as (
  update baton.runs r set
    status = stage.processing_status,
    worker_id = slot.worker_id,
    lease_number = r.lease_number + 1,
    lease_id = gen_random_uuid(),
    lease_ms = coalesce(slot.lease_ms, stage.lease_ms),
    claim_request_id = nullif(slot.request_id, ''),
    lease_expire_time = ${leaseEnd('coalesce(slot.lease_ms, stage.lease_ms)', 'stage', 'stage')}
  from picked
  join slot on picked.place > slot.above and picked.place <= slot.upto
  cross join stage
  where r.id = picked.id
  returning slot.waiter, picked.place, r.lease_number, r.lease_id::text as lease_id, ${runColumns('r')}
)
select
  exists (select from baton.pipelines p where p.name = $1::text) as pipeline_known,
  exists (select from baton.stages s where s.pipeline = $1::text and s.name = $2::text) as stage_known,
  exists (
    select from baton.stages s
    where s.pipeline = $1::text and s.name = $2::text and (s.max_active > 0 or s.max_active_per_key > 0)
  ) as stage_limited,
  claimed.*
from (select) as always
left join claimed on true
order by claimed.place`;

const NEXT = {
  name: 'claim_next_runs',
  text: sql(
    `r.pipeline = $1::text and r.stage = $2::text and r.state = 'PENDING'
    and r.claimable_time <= (select clock_timestamp())
  order by r.priority desc, r.claimable_time, r.id
  limit $6::int`,
    's.max_active = 0 and s.max_active_per_key = 0',
  ),
};

/** Of a stage with limits only these, which the holder of the stage's lock has chosen. */
const CHOSEN = {
  name: 'claim_chosen_runs',
  text: sql(
    `r.id = any ($6::uuid[]) and r.pipeline = $1::text and r.stage = $2::text and r.state = 'PENDING'`,
    'true',
  ),
};

export interface ClaimSlot {
  readonly workerId: string;
  /** 0 for the stage's own. */
  readonly leaseMs: number;
  readonly maxRuns: number;
  /** Kept with the runs while the lease lives; '' for none. */
  readonly requestId?: string;
}

interface StageKnown {
  pipeline_known: boolean;
  stage_known: boolean;
  stage_limited: boolean;
}

interface ClaimRow extends RunRow {
  waiter: bigint;
  lease_number: bigint;
  lease_id: string;
}

export interface ClaimResult {
  readonly pipelineKnown: boolean;
  readonly stageKnown: boolean;
  /** The stage has limits, so runs have to be chosen under its lock; see `stage_room.ts`. */
  readonly stageLimited: boolean;
  /** The claims of each slot, in the order of the slots. */
  readonly claims: readonly (readonly Claim[])[];
}

/**
 * @param chosen ids to claim instead of the next ones, in a stage with limits: give it only what its lock's holder chose
 */
export async function claimRuns(
  db: Queryable,
  pipeline: string,
  stage: string,
  slots: readonly ClaimSlot[],
  chosen?: readonly string[],
): Promise<ClaimResult> {
  const rows = await db.query<StageKnown & (ClaimRow | { id: null })>(chosen === undefined ? NEXT : CHOSEN, [
    pipeline,
    stage,
    slots.map((slot) => slot.workerId),
    slots.map((slot) => slot.leaseMs),
    slots.map((slot) => slot.maxRuns),
    chosen ?? slots.reduce((sum, slot) => sum + slot.maxRuns, 0),
    slots.map((slot) => slot.requestId ?? ''),
  ]);
  const claims: Claim[][] = slots.map(() => []);
  for (const row of rows) {
    if (row.id === null) continue;
    const run = decodeRun(row);
    if (run.leaseExpireTime === undefined) throw new Error(`run ${run.id} was claimed without a lease`);
    claims[Number(row.waiter) - 1]?.push({
      run,
      leaseToken: encodeLeaseToken({ number: row.lease_number, id: row.lease_id }),
      leaseExpireTime: run.leaseExpireTime,
    });
  }
  return {
    pipelineKnown: rows[0]?.pipeline_known ?? false,
    stageKnown: rows[0]?.stage_known ?? false,
    stageLimited: rows[0]?.stage_limited ?? false,
    claims,
  };
}
