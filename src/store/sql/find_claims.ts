import type { Claim } from '../../run/run.js';
import { encodeLeaseToken } from '../lease_token.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/** The claims that one worker got under one request_id and still holds, in claim order. */
const SQL = `
select r.lease_number, r.lease_id::text as lease_id, ${runColumns('r')}
from baton.runs r
where r.claim_request_id = $1::text and r.worker_id = $2::text and r.pipeline = $3::text and r.stage = $4::text
  and r.lease_id is not null and r.state = 'ACTIVE' and r.lease_expire_time > clock_timestamp()
order by r.priority desc, r.claimable_time, r.id`;

export async function findClaims(
  db: Queryable,
  key: {
    readonly requestId: string;
    readonly workerId: string;
    readonly pipeline: string;
    readonly stage: string;
  },
): Promise<Claim[]> {
  const rows = await db.query<RunRow & { lease_number: bigint; lease_id: string }>(SQL, [
    key.requestId,
    key.workerId,
    key.pipeline,
    key.stage,
  ]);
  return rows.map((row) => {
    const run = decodeRun(row);
    const leaseToken = encodeLeaseToken({ number: row.lease_number, id: row.lease_id });
    return { run, leaseToken, leaseExpireTime: run.leaseExpireTime ?? run.updateTime };
  });
}
