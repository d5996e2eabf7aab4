import { LIMITS } from '../../base/limits.js';
import type { Claim } from '../../run/run.js';
import { appendBy, appendMode } from '../append_sql.js';
import { hasKey } from '../key_sql.js';
import { leaseEnd } from '../lease_sql.js';
import { encodeLeaseToken } from '../lease_token.js';
import { CLAIMED_PAYLOAD, FITS, LOCKED_BYTES, packingSql } from '../payload_sql.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/** The stage (parameters `pipeline` and `name`) where it gives runs to anybody: a paused one does not. */
export function stageSql(pipeline: string, name: string, limits: string): string {
  return `
  select s.pipeline, s.name, s.processing_status, s.lease_ms, s.timeout_ms, s.max_attempts
  from baton.stages s
  join baton.pipelines p on p.name = s.pipeline
  where s.pipeline = ${pipeline}::text and s.name = ${name}::text and not s.paused and not p.paused
    and ${limits}`;
}

export const NO_LIMITS = 's.max_active = 0 and s.max_active_per_key = 0';

/** A row for each place of a slot, `nth` counting them, from `from` with the columns of a slot. */
export function slotSql(from: string, waiter: string): string {
  return `
  -- One row for each place, so that runs and places are matched by equality.
  select
    ${waiter} as waiter, w.worker_id, w.request_id, nullif(w.lease_ms, 0) as lease_ms, g as nth,
    row_number() over (order by ${waiter}, g) as place
  from ${from}
  cross join lateral generate_series(1, w.runs) as g`;
}

/** What is known of a run (alias r) that is locked to be claimed. */
const LOCKED = `r.id, r.priority, r.claimable_time, ${LOCKED_BYTES}`;
const CLAIM_ORDER = 'l.priority desc, l.claimable_time, l.id';

/**
 * The runs that were locked, in claim order, each with the slot of its place and whether it fits there. They go through
 * arrays, of which the planner expects few: of a limit that it does not know it expects a tenth of the table, and then reads
 * all of the table to change some rows. What is picked ends before the first that does not fit, so that nobody is given a
 * run before those that come first.
 */
export const PICKED = `${packingSql(CLAIM_ORDER)}, sized as materialized (
  select picked.*, (${FITS}) as fits
  from (
    select
      locked.id, locked.place, locked.stored + locked.packed * (packing.times - 1) as bytes,
      slot.waiter, slot.nth, slot.worker_id, slot.request_id, slot.lease_ms, now.time as attempt_time
    from packing
    cross join (
      select array_agg(l.id) as ids, array_agg(l.stored) as stored, array_agg(l.packed) as packed
      from (select * from locked l order by ${CLAIM_ORDER}) l
    ) l
    cross join lateral unnest(l.ids, l.stored, l.packed) with ordinality as locked (id, stored, packed, place)
    join slot on slot.place = locked.place
    -- Once, after all are locked.
    cross join (select clock_timestamp() as time from (select count(*) from locked) as done) as now
    -- By itself: for the order of the sums it would compare each run with each slot, 60 ms for 1,000.
    offset 0
  ) picked
), first_left as materialized (
  select min(place) as place from sized where not fits
), picked as materialized (
  select sized.* from sized, first_left where first_left.place is null or sized.place < first_left.place
)`;

/** How many runs were locked and left for the next claim. */
export const LEFT = '(select count(*)::int from sized) - (select count(*)::int from picked)';

/** Gives each picked run to its slot. */
export const CLAIMED = `
  update baton.runs r set
    status = stage.processing_status,
    state = 'ACTIVE',
    status_time = picked.attempt_time,
    version = r.version + 1,
    update_time = picked.attempt_time,
    attempt = r.attempt + 1,
    attempts_allowed = coalesce(r.max_attempts, stage.max_attempts),
    attempt_time = picked.attempt_time,
    start_time = coalesce(r.start_time, picked.attempt_time),
    end_time = null,
    progress = 0,
    status_message = '',
    error_code = null,
    error_message = null,
    worker_id = picked.worker_id,
    lease_number = r.lease_number + 1,
    lease_id = gen_random_uuid(),
    lease_ms = coalesce(picked.lease_ms, stage.lease_ms),
    claim_request_id = nullif(picked.request_id, ''),
    lease_expire_time = ${leaseEnd('coalesce(picked.lease_ms, stage.lease_ms)', 'picked', 'stage')}
  from append
  cross join picked
  cross join stage
  where ${hasKey('r.id', 'picked.id')}
  returning
    picked.waiter, picked.place, r.lease_number, r.lease_id::text as lease_id, r.claimable_time::text as claimable_time,
    ${runColumns('r')}, ${CLAIMED_PAYLOAD}`;

/** What there is to know of a stage, whether it gives runs or not. */
export function knownSql(pipeline: string, name: string): string {
  return `
  exists (select from baton.pipelines p where p.name = ${pipeline}::text) as pipeline_known,
  exists (select from baton.stages s where s.pipeline = ${pipeline}::text and s.name = ${name}::text) as stage_known,
  exists (
    select from baton.stages s
    where s.pipeline = ${pipeline}::text and s.name = ${name}::text and (s.max_active > 0 or s.max_active_per_key > 0)
  ) as stage_limited`;
}

/**
 * Claims runs of one stage for several waiting workers at once. The rows are taken in claim order, locked rows are
 * passed over, and row k goes to the worker in whose range of places k falls. The lease number grows with every claim,
 * which is what fences off the worker before. A paused pipeline or stage gives nothing. One row comes back even
 * without a claim, and says whether there is such a stage. The clock is read in a subquery, once, so that it can be a
 * condition of the index: 50 ms against 0.2 ms behind 200,000 runs that are not due. It says itself what
 * `runs_before_write` derives for other SQL (migration 0008).
 */
const sql = (locked: string, limits: string): string => `
with ${appendBy('$8')}, stage as materialized (${stageSql('$1', '$2', limits)}
), slot as materialized (${slotSql('unnest($3::text[], $4::bigint[], $5::int[], $7::text[]) with ordinality as w (worker_id, lease_ms, runs, request_id, waiter)', 'w.waiter')}
), locked as materialized (${locked}
), ${PICKED}, claimed as (${CLAIMED}
)
select ${knownSql('$1', '$2')}, ${LEFT} as runs_left,
  claimed.*
from (select) as always
left join claimed on true
order by claimed.place`;

/**
 * A place in each priority, from which on runs are looked for: what was claimed before it would only be walked over,
 * row by dead row, until VACUUM has come by (0.4 µs each, and without end while somebody holds an old snapshot). The
 * inner query is run for one priority after the other, highest first, and no further once there are enough.
 */
export function nextSql(
  pipeline: string,
  name: string,
  limit: string,
  { times, ids }: { readonly times: string; readonly ids: string },
): string {
  return `
  select r.*
  from unnest(${times}::timestamptz[], ${ids}::uuid[]) with ordinality as mark (claimable_time, id, nth)
  cross join lateral (
    select ${LOCKED}
    from baton.runs r
    where exists (select from stage)
      and r.pipeline = ${pipeline}::text and r.stage = ${name}::text and r.state = 'PENDING'
      and r.priority = ${LIMITS.priorityMax} + 1 - mark.nth
      and (r.claimable_time, r.id) > (mark.claimable_time, mark.id)
      and r.claimable_time <= (select clock_timestamp())
    order by r.claimable_time, r.id
    limit ${limit}
    for update of r skip locked
  ) r
  limit ${limit}`;
}

const NEXT = {
  name: 'claim_next_runs',
  text: sql(nextSql('$1', '$2', '$6::int', { times: '$9', ids: '$10' }), NO_LIMITS),
};

/** Of a stage with limits only these, which the holder of the stage's lock has chosen. */
const CHOSEN = {
  name: 'claim_chosen_runs',
  text: sql(
    `
  select ${LOCKED}
  from baton.runs r
  where exists (select from stage)
    and r.id = any ($6::uuid[]) and r.pipeline = $1::text and r.stage = $2::text and r.state = 'PENDING'
  for update of r skip locked`,
    'true',
  ),
};

/** A run's place among those of its stage and priority; the time is the database's text. */
export interface ClaimMark {
  readonly claimableTime: string;
  readonly id: string;
}

/** Before every run. */
export const FLOOR: ClaimMark = {
  claimableTime: '-infinity',
  id: '00000000-0000-0000-0000-000000000000',
};

/** One for each priority, highest first. */
export type ClaimMarks = readonly ClaimMark[];
export const FLOOR_OF_ALL: ClaimMarks = Array.from({ length: LIMITS.priorityMax + 1 }, () => FLOOR);

export interface ClaimSlot {
  readonly workerId: string;
  /** 0 for the stage's own. */
  readonly leaseMs: number;
  readonly maxRuns: number;
  /** Kept with the runs while the lease lives; '' for none. */
  readonly requestId?: string;
}

export interface StageKnown {
  runs_left: number;
  pipeline_known: boolean;
  stage_known: boolean;
  stage_limited: boolean;
}

export interface ClaimRow extends RunRow {
  waiter: bigint;
  lease_number: bigint;
  lease_id: string;
  claimable_time: string;
}

export interface ClaimResult {
  readonly pipelineKnown: boolean;
  readonly stageKnown: boolean;
  /** The stage has limits, so runs have to be chosen under its lock; see `stage_room.ts`. */
  readonly stageLimited: boolean;
  /** Runs that could be claimed and did not fit, with those behind them. */
  readonly left: number;
  /** The claims of each slot, in the order of the slots. One with `payloadOmitted` is completed by `completeClaims`. */
  readonly claims: readonly (readonly Claim[])[];
  /** The place of the last claimed run of each priority. */
  readonly last: ReadonlyMap<number, ClaimMark>;
}

interface Claiming {
  readonly pipeline: string;
  readonly stage: string;
  readonly slots: readonly ClaimSlot[];
}

/** Claims the next runs of a stage without limits that come after the marks. */
export function claimRuns(
  db: Queryable,
  { pipeline, stage, slots }: Claiming,
  marks: ClaimMarks = FLOOR_OF_ALL,
): Promise<ClaimResult> {
  return claim(db, NEXT, slots, [
    ...[pipeline, stage, ...slotValues(slots)],
    ...[slots.reduce((sum, slot) => sum + slot.maxRuns, 0), requestIds(slots), appendMode(db)],
    ...[marks.map((mark) => mark.claimableTime), marks.map((mark) => mark.id)],
  ]);
}

/** Claims these runs, in claim order: what the holder of the lock of a stage with limits has chosen. */
export function claimChosenRuns(
  db: Queryable,
  { pipeline, stage, slots }: Claiming,
  chosen: readonly string[],
): Promise<ClaimResult> {
  return claim(db, CHOSEN, slots, [
    pipeline,
    stage,
    ...slotValues(slots),
    chosen,
    requestIds(slots),
    appendMode(db),
  ]);
}

function slotValues(slots: readonly ClaimSlot[]): unknown[] {
  return [
    slots.map((slot) => slot.workerId),
    slots.map((slot) => slot.leaseMs),
    slots.map((slot) => slot.maxRuns),
  ];
}

function requestIds(slots: readonly ClaimSlot[]): string[] {
  return slots.map((slot) => slot.requestId ?? '');
}

async function claim(
  db: Queryable,
  statement: Statement,
  slots: readonly ClaimSlot[],
  values: unknown[],
): Promise<ClaimResult> {
  const rows = await db.query<StageKnown & (ClaimRow | { id: null })>(statement, values);
  return decodeClaims(rows, slots.length);
}

/** @param rows at least one, which may have no run */
export function decodeClaims(
  rows: readonly (StageKnown & (ClaimRow | { id: null }))[],
  slots: number,
): ClaimResult {
  const claims: Claim[][] = Array.from({ length: slots }, () => []);
  const last = new Map<number, ClaimMark>();
  for (const row of rows) {
    if (row.id === null) continue;
    const run = decodeRun(row);
    if (run.leaseExpireTime === undefined) throw new Error(`run ${run.id} was claimed without a lease`);
    last.set(run.priority, { claimableTime: row.claimable_time, id: run.id });
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
    left: rows[0]?.runs_left ?? 0,
    claims,
    last,
  };
}
