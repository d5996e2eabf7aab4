import { LIMITS } from '../../base/limits.js';
import type { Run } from '../../run/run.js';
import { cutByBytes, payloadOf, payloadWhere } from '../payload_sql.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/** The runs of an answer as their events of the claim show them, in order, as many as the answer could hold. */
const SQL: Statement = {
  name: 'read_claimed',
  text: `
select ${runColumns('page')},
  ${payloadWhere(`page.read_bytes <= ${LIMITS.payloadTextBytes}`, payloadOf('page'))}
from ${cutByBytes(
    `
  select i.place, i.id, e.*, r.input
  from unnest($1::uuid[], $2::uuid[]) with ordinality as i (id, lease_id, place)
  cross join lateral (select r.input from baton.runs r where r.id = i.id offset 0) r
  left join lateral (
    select e.*
    from baton.run_events e
    where e.run_id = i.id and e.lease_id = i.lease_id and e.type = 'CLAIMED'
    order by e.version
    limit 1
  ) e on true`,
    'place',
    String(LIMITS.answerBytes),
  )}
order by page.place`,
};

/**
 * Runs as they were right after a claim, so that its repeat fits as the first answer did, whatever the worker has reported
 * since.
 *
 * @returns the runs in the order of the leases, undefined where the event is kept no more; fewer where there was no room
 */
export async function readClaimed(
  db: Queryable,
  leases: readonly { readonly runId: string; readonly leaseId: string }[],
): Promise<(Run | undefined)[]> {
  const rows = await db.query<RunRow | { version: null }>(SQL, [
    leases.map(({ runId }) => runId),
    leases.map(({ leaseId }) => leaseId),
  ]);
  return rows.map((row) => (row.version === null ? undefined : decodeRun(row)));
}
