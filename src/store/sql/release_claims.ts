import type { LeaseKey } from '../lease_token.js';
import type { Queryable } from '../pool.js';

/**
 * Hands claims back that never reached their worker: the runs wait again and the claim costs no attempt. One whose cancel
 * was asked for meanwhile does not wait again.
 */
const SQL = `
update baton.runs r set
  status = case when r.cancel_requested then p.canceled_status else s.waiting_status end,
  attempt = greatest(r.attempt - 1, 0)
from unnest($1::uuid[], $2::bigint[], $3::uuid[]) as i (id, lease_number, lease_id), baton.stages s, baton.pipelines p
where r.id = i.id and r.lease_number = i.lease_number and r.lease_id = i.lease_id
  and r.state = 'ACTIVE' and s.pipeline = r.pipeline and s.name = r.stage and p.name = r.pipeline
returning r.id`;

/** @returns how many were still held under their lease */
export async function releaseClaims(
  db: Queryable,
  leases: readonly { readonly runId: string; readonly lease: LeaseKey }[],
): Promise<number> {
  const rows = await db.query(SQL, [
    leases.map((item) => item.runId),
    leases.map((item) => item.lease.number),
    leases.map((item) => item.lease.id),
  ]);
  return rows.length;
}
