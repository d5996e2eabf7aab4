import { LIMITS } from '../../base/limits.js';
import { splitClaims } from '../../run/claim_split.js';
import type { Claim } from '../../run/run.js';
import { hasKey } from '../key_sql.js';
import { FOR_UPDATE, isLive, type OnLocked } from '../lease_sql.js';
import { encodeLeaseToken } from '../lease_token.js';
import type { Queryable, Statement } from '../pool.js';
import { getRun } from './get_run.js';
import { readClaimed } from './read_claimed.js';

/**
 * Whether a run (alias r) is held under the request of an item (alias i), its lease live or not. Wrapped, so that it is
 * looked up by the request and in no other way: through the index of runs at work, each item read all that were at work
 * in its stage (0.9 ms an item beside 256 of them).
 */
export const IS_HELD_UNDER = `r.claim_request_id = i.request_id and r.claim_request_id is not null and r.lease_id is not null
    and coalesce(
      r.worker_id = i.worker_id and r.pipeline = i.pipeline and r.stage = i.stage, false)`;

/**
 * Finds what each worker got under one request_id and still holds, in claim order. It is marked as repeated, so
 * that the first call does not hand back what the second one was given. Locked in order of id, as every statement does
 * that waits for rows. What was found and could not be locked comes back too, without the run.
 */
const sql = (onLocked: OnLocked): Statement => ({
  name: `find_claims_${onLocked}`,
  text: `
with item as materialized (
  select * from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality
    as i (request_id, worker_id, pipeline, stage, position)
), found as materialized (
  select i.*, r.id
  from item i
  cross join lateral (select r.id from baton.runs r where ${IS_HELD_UNDER} offset 0) r
), locked as materialized (
  select i.position, i.id
  from (select * from found order by id) i
  cross join lateral (
    -- Wrapped, so that runs are looked up by their key; see IS_UNDER_LEASE.
    select r.state, r.lease_expire_time
    from baton.runs r where r.id = i.id and coalesce(${IS_HELD_UNDER}, false)
    offset 0 ${FOR_UPDATE[onLocked]}
  ) r
  where ${isLive('r')}
), held as (
  update baton.runs r set repeated_lease = r.lease_number
  from locked
  where ${hasKey('r.id', 'locked.id')}
  returning
    locked.position, r.priority, r.claimable_time, r.id, r.lease_number, r.lease_id::text as lease_id, r.lease_expire_time
)
select f.position as found_position, held.id, held.lease_number, held.lease_id, held.lease_expire_time
from found f left join held on held.id = f.id
order by f.position, held.priority desc, held.claimable_time, held.id`,
});
// One that waits is kept from the connections of those that do not.
const SQL = { wait: sql('wait').text, skip: sql('skip') };

interface HeldRow {
  id: string;
  lease_number: bigint;
  lease_id: string;
  lease_expire_time: Date;
}
type FoundRow = { found_position: bigint } & ({ id: null } | HeldRow);

/** What a ClaimNext is known by. */
export interface ClaimRequestKey {
  readonly requestId: string;
  readonly workerId: string;
  readonly pipeline: string;
  readonly stage: string;
}

/**
 * @param onLocked with 'skip' nobody is waited for
 * @returns the claims of each request, none for one without a request_id; with 'skip', undefined where somebody else has
 *   one of them in hand, who may be handing it back
 */
export async function findClaims(
  db: Queryable,
  keys: readonly ClaimRequestKey[],
  onLocked: OnLocked = 'wait',
): Promise<(Claim[] | undefined)[]> {
  if (keys.every(({ requestId }) => requestId === '')) return keys.map(() => []);
  const rows = await db.query<FoundRow>(SQL[onLocked], [
    // An empty one matches nothing, since a run without a request_id has none at all.
    keys.map(({ requestId }) => requestId),
    keys.map(({ workerId }) => workerId),
    keys.map(({ pipeline }) => pipeline),
    keys.map(({ stage }) => stage),
  ]);
  const held: HeldRow[][] = keys.map(() => []);
  const passedOver = new Set<number>();
  for (const row of rows) {
    const index = Number(row.found_position) - 1;
    if (row.id === null) {
      // After a wait it is known that the run is held no more.
      if (onLocked === 'skip') passedOver.add(index);
      continue;
    }
    held[index]?.push(row);
  }
  const claims: (Claim[] | undefined)[] = [];
  for (const [index, found] of held.entries())
    claims.push(passedOver.has(index) ? undefined : await toClaims(db, found));
  return claims;
}

/** Each run as of its claim. What there is no room for was not given by the first answer either, which releases it. */
async function toClaims(db: Queryable, held: readonly HeldRow[]): Promise<Claim[]> {
  if (held.length === 0) return [];
  const leases = held.map(({ id, lease_id }) => ({ runId: id, leaseId: lease_id }));
  const claims: Claim[] = [];
  for (const [index, claimed] of (await readClaimed(db, leases)).entries()) {
    const row = held[index];
    // Whoever looks for it in a log that keeps so little is given it as it is now.
    const run = claimed ?? (row && (await getRun(db, row.id)));
    if (row === undefined || run === undefined) continue;
    const leaseToken = encodeLeaseToken({ number: row.lease_number, id: row.lease_id });
    claims.push({ run, leaseToken, leaseExpireTime: row.lease_expire_time });
  }
  return splitClaims(claims, LIMITS.answerBytes).fitting;
}
