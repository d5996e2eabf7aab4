import type { Claim } from '../../run/run.js';
import { encodeLeaseToken } from '../lease_token.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/**
 * The claims that each worker got under one request_id and still holds, in claim order. They are marked as repeated, so
 * that the first call does not hand back what the second one was given.
 */
const SQL = {
  name: 'find_claims',
  text: `
with held as (
  update baton.runs r set repeated_lease = r.lease_number
  from unnest($1::text[], $2::text[], $3::text[], $4::text[]) with ordinality
    as i (request_id, worker_id, pipeline, stage, position)
  where r.claim_request_id = i.request_id and r.worker_id = i.worker_id
    and r.pipeline = i.pipeline and r.stage = i.stage
    and r.claim_request_id is not null and r.lease_id is not null and r.state = 'ACTIVE'
    and r.lease_expire_time > clock_timestamp()
  returning i.position, r.claimable_time, r.lease_number, r.lease_id::text as lease_id, ${runColumns('r')}
)
select * from held order by position, priority desc, claimable_time, id`,
};

/** What a ClaimNext is known by. */
export interface ClaimRequestKey {
  readonly requestId: string;
  readonly workerId: string;
  readonly pipeline: string;
  readonly stage: string;
}

/** @returns the claims of each request, none for one without a request_id */
export async function findClaims(db: Queryable, keys: readonly ClaimRequestKey[]): Promise<Claim[][]> {
  const claims: Claim[][] = keys.map(() => []);
  if (keys.every(({ requestId }) => requestId === '')) return claims;
  type Row = RunRow & { position: bigint; lease_number: bigint; lease_id: string };
  const rows = await db.query<Row>(SQL, [
    // An empty one matches nothing, since a run without a request_id has none at all.
    keys.map(({ requestId }) => requestId),
    keys.map(({ workerId }) => workerId),
    keys.map(({ pipeline }) => pipeline),
    keys.map(({ stage }) => stage),
  ]);
  for (const row of rows) {
    const run = decodeRun(row);
    const leaseToken = encodeLeaseToken({ number: row.lease_number, id: row.lease_id });
    claims[Number(row.position) - 1]?.push({
      run,
      leaseToken,
      leaseExpireTime: run.leaseExpireTime ?? run.updateTime,
    });
  }
  return claims;
}
