import { randomBytes } from 'node:crypto';
import { v7 as uuidV7 } from 'uuid';
import type { Run } from '../../run/run.js';
import { appendBy, appendMode } from '../append_sql.js';
import type { Queryable } from '../pool.js';
import { throwAsDeleted } from '../violation.js';

export interface NewRun {
  readonly pipeline: string;
  readonly repository: string;
  readonly labels: Readonly<Record<string, string>>;
  /** JSON text of an object. */
  readonly input: string | undefined;
  readonly priority: number;
  readonly scheduleTime: Date | undefined;
  readonly concurrencyKey: string;
  /** 0 for each stage's own. */
  readonly maxAttempts: number;
  readonly requestId: string;
  readonly requestHash: Buffer | undefined;
  readonly traceParent: string;
}

/**
 * The times in the ids are of the database's clock, as everywhere: servers whose clocks differ would put ids, and with them
 * lists and claims, out of order. A server gives what comes after the time; the first part of that counts on, so that the
 * runs of one statement have ids in its order.
 *
 * Inserts runs; a run whose request_id is taken is left out of the answer, and so is one whose pipeline does not
 * exist, or all of them where all have to go together. A transaction that holds the same request_id uncommitted is
 * waited for, since nobody can know yet whether the id is taken. It says itself what `runs_before_write` derives for other
 * SQL (migration 0008), and gives back only what the caller does not know.
 */
const SQL = {
  name: 'create_runs',
  text: `
with ${appendBy('$14')}, moment as materialized (
  select lpad(to_hex((extract(epoch from statement_timestamp()) * 1000)::bigint), 12, '0') || '-' as id_start
), place as materialized (
  -- Through the keys: the plan is kept while pipelines are added; see hasKey.
  select p.name as pipeline, p.initial_status, s.name as stage, s.max_attempts
  from (select distinct n.name from unnest($1::text[]) as n (name)) n
  cross join lateral (select p.name, p.initial_status from baton.pipelines p where p.name = n.name offset 0) p
  cross join lateral (
    select s.name, s.max_attempts from baton.stages s where s.pipeline = p.name and s.position = 0 offset 0
  ) s
)
insert into baton.runs (
  id, pipeline, repository, labels, input, priority, schedule_time, concurrency_key, max_attempts, request_id,
  request_hash, trace_parent, stage, status, state, attempts_allowed, version, create_time, update_time, claimable_time
)
select
  (moment.id_start || i.id_end)::uuid, i.pipeline, i.repository, i.labels::jsonb, i.input::jsonb, i.priority, i.schedule_time, i.concurrency_key,
  nullif(i.max_attempts, 0), nullif(i.request_id, ''), i.request_hash, i.trace_parent,
  place.stage, place.initial_status, 'PENDING', coalesce(nullif(i.max_attempts, 0), place.max_attempts), 1, statement_timestamp(),
  statement_timestamp(), greatest(statement_timestamp(), i.schedule_time)
from append cross join moment cross join unnest(
  $1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::timestamptz[], $7::text[], $8::int[], $9::text[],
  $10::bytea[], $11::text[], $12::text[]
) with ordinality as i (
  pipeline, repository, labels, input, priority, schedule_time, concurrency_key, max_attempts, request_id,
  request_hash, trace_parent, id_end, position
)
join place on place.pipeline = i.pipeline
where not $13::boolean or not exists (
  select from unnest($1::text[]) as n (name)
  where n.name not in (select place.pipeline from place))
order by i.position
on conflict (request_id) where request_id is not null do nothing
returning id, stage, status, attempts_allowed, create_time`,
};

/** What is asked for in each run: ten parameters of one statement. */
export function contentValues(runs: readonly NewRun[]): unknown[] {
  return [
    runs.map((run) => run.pipeline),
    runs.map((run) => run.repository),
    runs.map((run) => JSON.stringify(run.labels)),
    runs.map((run) => run.input ?? null),
    runs.map((run) => run.priority),
    runs.map((run) => run.scheduleTime?.toISOString() ?? null),
    runs.map((run) => run.concurrencyKey),
    runs.map((run) => run.maxAttempts),
    runs.map((run) => run.requestId),
    runs.map((run) => run.requestHash ?? null),
  ];
}

interface CreatedRow {
  id: string;
  stage: string;
  status: string;
  attempts_allowed: number;
  create_time: Date;
}

/** A run as it was created, from what was asked for and what the database has decided. */
function toRun(run: NewRun, row: CreatedRow): Run {
  // One literal: an object that is spread into another costs 40 µs here, as each further property moves it.
  return {
    id: row.id,
    pipeline: run.pipeline,
    repository: run.repository,
    labels: run.labels,
    priority: run.priority,
    concurrencyKey: run.concurrencyKey,
    requestId: run.requestId,
    traceParent: run.traceParent,
    stage: row.stage,
    status: row.status,
    state: 'PENDING',
    // Its caller has it.
    input: undefined,
    output: undefined,
    error: undefined,
    attempt: 0,
    maxAttempts: row.attempts_allowed,
    workerId: '',
    leaseExpireTime: undefined,
    scheduleTime: run.scheduleTime,
    cancelRequested: false,
    progress: 0,
    statusMessage: '',
    checkpoint: undefined,
    version: 1n,
    createTime: row.create_time,
    updateTime: row.create_time,
    startTime: undefined,
    endTime: undefined,
    payloadOmitted: false,
  };
}

/**
 * By request_id, so that two batches with the same ones cannot wait for each other in a circle. Here and not in the
 * database, where each comparison of two empty ones took the wide rows apart: an eighth of a batch.
 */
function inLockOrder(runs: readonly NewRun[]): readonly NewRun[] {
  if (runs.every(({ requestId }) => requestId === '')) return runs;
  return [...runs].sort((a, b) => (a.requestId < b.requestId ? -1 : a.requestId > b.requestId ? 1 : 0));
}

/** Where the part of an id begins that a server gives: after the time, `tttttttt-tttt-`. */
const ID_END_AT = 14;
const RANDOM_BYTES = 16;
/** Counted on with each run of this process, from anywhere. */
let sequence = randomBytes(4).readUInt32BE();

/** What follows the time in version 7 UUIDs that come one after the other, of one and the same millisecond. */
function idEnds(count: number): string[] {
  const random = randomBytes(count * RANDOM_BYTES);
  return Array.from({ length: count }, (_, index) => {
    sequence = (sequence + 1) >>> 0;
    const from = index * RANDOM_BYTES;
    const id = uuidV7({ msecs: 0, seq: sequence, random: random.subarray(from, from + RANDOM_BYTES) });
    return id.slice(ID_END_AT);
  });
}

/**
 * @param allOrNothing whether one unknown pipeline keeps all runs from being inserted
 * @returns what became of those that were inserted
 */
export async function createRuns(
  db: Queryable,
  newRuns: readonly NewRun[],
  allOrNothing = false,
): Promise<Map<NewRun, Run>> {
  const ends = idEnds(newRuns.length);
  const asked = new Map(newRuns.map((run, index) => [run, ends[index]]));
  const runs = inLockOrder(newRuns);
  const rows = await db
    .query<CreatedRow>(SQL, [
      ...contentValues(runs),
      runs.map((run) => run.traceParent),
      runs.map((run) => asked.get(run)),
      allOrNothing,
      appendMode(db),
    ])
    .catch(throwAsDeleted);
  const byEnd = new Map(rows.map((row) => [row.id.slice(ID_END_AT), row]));
  const created = new Map<NewRun, Run>();
  for (const [run, end] of asked) {
    const row = end === undefined ? undefined : byEnd.get(end);
    if (row !== undefined) created.set(run, toRun(run, row));
  }
  if (created.size !== rows.length) throw new Error('a run was created and not asked for');
  return created;
}
