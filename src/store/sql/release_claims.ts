import type { LeaseKey } from '../lease_token.js';
import type { Queryable } from '../pool.js';

/**
 * Hands claims back that never reached their worker: the runs wait again and the claim costs no attempt. One whose cancel
 * was asked for meanwhile does not wait again, and one that a repeat of the call was given again stays where it is, unless no answer could hold it.
 */
const SQL = `
with held as materialized (
  -- In order of id, as every statement locks that waits for rows.
  select r.id
  from (
    select * from unnest($1::uuid[], $2::bigint[], $3::uuid[]) as i (id, lease_number, lease_id) order by id
  ) i
  cross join lateral (
    select r.id
    from baton.runs r
    -- Wrapped, so that runs are looked up by their key; see IS_UNDER_LEASE.
    where r.id = i.id
      and coalesce(r.lease_number = i.lease_number and r.lease_id = i.lease_id and r.state = 'ACTIVE', false)
      and ($4::boolean or r.repeated_lease is distinct from r.lease_number)
    for update
  ) r
)
update baton.runs r set
  status = case when r.cancel_requested then p.canceled_status else s.waiting_status end,
  attempt = greatest(r.attempt - 1, 0)
from held, baton.stages s, baton.pipelines p
where r.id = held.id and s.pipeline = r.pipeline and s.name = r.stage and p.name = r.pipeline
returning r.id`;

/**
 * @param repeatedToo whether those are released as well that a repeat may have found, and cannot have been given
 * @returns how many were still held under their lease
 */
export async function releaseClaims(
  db: Queryable,
  leases: readonly { readonly runId: string; readonly lease: LeaseKey }[],
  repeatedToo = false,
): Promise<number> {
  const rows = await db.query(SQL, [
    leases.map((item) => item.runId),
    leases.map((item) => item.lease.number),
    leases.map((item) => item.lease.id),
    repeatedToo,
  ]);
  return rows.length;
}
