import type { LeaseKey } from '../lease_token.js';
import type { Queryable } from '../pool.js';

/** Fails runs for good whose claims nobody could be told of; the database derives the rest, as for any other SQL. */
const SQL = `
with held as materialized (
  -- In order of id, as every statement locks that waits for rows.
  select r.id, i.message
  from (
    select * from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[]) as i (id, lease_number, lease_id, message)
    order by id
  ) i
  cross join lateral (
    select r.id
    from baton.runs r
    -- Wrapped, so that runs are looked up by their key; see IS_UNDER_LEASE.
    where r.id = i.id
      and coalesce(r.lease_number = i.lease_number and r.lease_id = i.lease_id and r.state = 'ACTIVE', false)
    for update
  ) r
)
update baton.runs r set status = p.error_status, error_code = $5::text, error_message = held.message
from held, baton.pipelines p
where r.id = held.id and p.name = r.pipeline
returning r.id`;

export interface FailedClaim {
  readonly runId: string;
  readonly lease: LeaseKey;
  readonly message: string;
}

/** @returns how many were still held under their lease */
export async function failClaims(
  db: Queryable,
  claims: readonly FailedClaim[],
  code: string,
): Promise<number> {
  const rows = await db.query(SQL, [
    claims.map(({ runId }) => runId),
    claims.map(({ lease }) => lease.number),
    claims.map(({ lease }) => lease.id),
    claims.map(({ message }) => message),
    code,
  ]);
  return rows.length;
}
