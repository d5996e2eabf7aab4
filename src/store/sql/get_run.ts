import type { Run } from '../../run/run.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

const SQL: Statement = {
  name: 'get_run',
  text: `
select ${runColumns('r')}
from baton.runs r
where r.id = $1::uuid`,
};

export async function getRun(db: Queryable, id: string): Promise<Run | undefined> {
  const [row] = await db.query<RunRow>(SQL, [id]);
  return row === undefined ? undefined : decodeRun(row);
}
