import { Room, type Candidate } from '../../run/limits.js';
import type { Queryable } from '../pool.js';
import type { StageKey } from './find_due_stages.js';

/**
 * Counting what is at work and adding to it must not happen twice at once. The lock is taken in a statement of its own,
 * because a statement counts in the snapshot from before it waited. It is held until the claim is committed.
 */
const LOCK = `select pg_advisory_xact_lock(hashtext('baton.stage'), hashtext($1::text || '/' || $2::text))`;

const LIMITS = `
select s.max_active, s.max_active_per_key
from baton.stages s
where s.pipeline = $1::text and s.name = $2::text`;

/** The key of a run (alias r): a run without a key and without a repository is not limited by key. */
const KEY = `coalesce(nullif(r.concurrency_key, ''), r.repository)`;

const ACTIVE = `
select ${KEY} as key, count(*)::int as runs
from baton.runs r
where r.pipeline = $1::text and r.stage = $2::text and r.state = 'ACTIVE'
group by 1`;

/** Locks a stage for claims, and says how much room its limits leave. Runs inside a transaction of the caller. */
export async function lockRoom(tx: Queryable, { pipeline, stage }: StageKey): Promise<Room> {
  await tx.query(LOCK, [pipeline, stage]);
  const [limits] = await tx.query<{ max_active: number; max_active_per_key: number }>(LIMITS, [
    pipeline,
    stage,
  ]);
  const rows = await tx.query<{ key: string; runs: number }>(ACTIVE, [pipeline, stage]);
  const active = new Map(rows.map(({ key, runs }) => [key, runs]));
  const total = rows.reduce((sum, { runs }) => sum + runs, 0);
  const orNone = (limit: number | undefined): number =>
    limit === undefined || limit === 0 ? Number.POSITIVE_INFINITY : limit;
  return new Room(orNone(limits?.max_active) - total, orNone(limits?.max_active_per_key), active);
}

const CANDIDATES = `
select r.id::text as id, ${KEY} as key, r.priority, r.claimable_time::text as claimable_time
from baton.runs r
where r.pipeline = $1::text and r.stage = $2::text and r.state = 'PENDING'
  and r.claimable_time <= (select clock_timestamp())
  and ($3::int is null or r.priority <= $3::int)
  and ($3::int is null or (-r.priority, r.claimable_time, r.id) > (-$3::int, $4::timestamptz, $5::uuid))
order by r.priority desc, r.claimable_time, r.id
limit $6::int`;

/** A place in the order of claims. The time is the database's text, which has more digits than a Date. */
export interface ClaimPlace {
  readonly priority: number;
  readonly claimableTime: string;
  readonly id: string;
}

/** Runs that could be claimed, in claim order, after a place. */
export async function findCandidates(
  tx: Queryable,
  { pipeline, stage }: StageKey,
  after: ClaimPlace | undefined,
  limit: number,
): Promise<{ readonly candidates: readonly Candidate[]; readonly last: ClaimPlace | undefined }> {
  type Row = { id: string; key: string; priority: number; claimable_time: string };
  const rows = await tx.query<Row>(CANDIDATES, [
    pipeline,
    stage,
    after?.priority ?? null,
    after?.claimableTime ?? null,
    after?.id ?? null,
    limit,
  ]);
  const end = rows.at(-1);
  return {
    candidates: rows.map(({ id, key }) => ({ id, key })),
    last:
      end === undefined
        ? undefined
        : { priority: end.priority, claimableTime: end.claimable_time, id: end.id },
  };
}
