import type { RunEvent } from '../../run/run.js';
import type { LeaseKey } from '../lease_token.js';
import type { Queryable } from '../pool.js';
import { decodeEvent, eventColumns, type EventRow } from '../rows.js';

/**
 * The change that ended a lease, with what its worker sent; undefined while the lease lives, for a lease that the
 * run never had, and when the change is older than the kept history. The last event under a lease is its end unless
 * the run was still ACTIVE after it.
 */
const SQL = `
select ${eventColumns('e')}, e.output, e.checkpoint
from baton.run_events e
where e.run_id = $1::uuid and e.lease_id = $2::uuid
order by e.version desc
limit 1`;

export async function findLeaseEnd(
  db: Queryable,
  runId: string,
  lease: LeaseKey,
): Promise<RunEvent | undefined> {
  const [row] = await db.query<EventRow>(SQL, [runId, lease.id]);
  return row === undefined || row.state === 'ACTIVE' ? undefined : decodeEvent(row);
}
