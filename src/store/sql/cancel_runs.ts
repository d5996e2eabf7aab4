import type { Run } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/**
 * Cancels what waits at once and asks the worker of what is at work to stop. Runs that have ended, and those whose
 * cancel was requested before, are not touched.
 */
const SQL = `
with target as materialized (
  select r.id from baton.runs r
  where r.id = any ($1::uuid[]) and (r.state = 'PENDING' or (r.state = 'ACTIVE' and not r.cancel_requested))
  order by r.id
  for update of r
)
update baton.runs r set
  status = case when r.state = 'PENDING' then p.canceled_status else r.status end,
  cancel_requested = true,
  status_message = case when $2::text = '' then r.status_message else $2::text end
from target, baton.pipelines p
where r.id = target.id and p.name = r.pipeline
returning ${runColumns('r')}`;

/** @returns the runs that were changed */
export async function cancelRuns(db: Queryable, ids: readonly string[], reason: string): Promise<Run[]> {
  return (await db.query<RunRow>(SQL, [ids, reason])).map(decodeRun);
}
