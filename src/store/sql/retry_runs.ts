import type { Run } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';
import { throwAsDeleted } from '../violation.js';

/** Lets runs that have ended wait again: for the named stage, or for the one in which each ended. */
const SQL = `
with target as materialized (
  select r.id, s.waiting_status
  from baton.runs r
  join baton.stages s on s.pipeline = r.pipeline and s.name = coalesce(nullif($2::text, ''), nullif(r.ended_stage, ''))
  where r.id = any ($1::uuid[]) and r.state in ('SUCCEEDED', 'FAILED', 'CANCELED')
  order by r.id
  for update of r
)
update baton.runs r set
  status = target.waiting_status, schedule_time = null, cancel_requested = false, status_message = '', progress = 0
from target
where r.id = target.id
returning ${runColumns('r')}`;

/** @returns the runs that wait again */
export async function retryRuns(db: Queryable, ids: readonly string[], stage: string): Promise<Run[]> {
  const rows = await db.query<RunRow>(SQL, [ids, stage]).catch(throwAsDeleted);
  return rows.map(decodeRun);
}
