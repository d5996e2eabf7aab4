import type { Queryable } from '../pool.js';

const LOCK = 'select p.name from baton.pipelines p where p.name = $1::text for update';

const OPEN_RUNS = `
select count(*)::int as runs
from (
  select from baton.runs r where r.pipeline = $1::text and r.state in ('PENDING', 'ACTIVE') limit 1000
) open`;

/**
 * Deletes a pipeline that no open run is in. Runs inside a transaction of the caller: the lock keeps runs from being
 * made in it meanwhile.
 *
 * @returns how many open runs there are, counted to 1000; the pipeline is deleted when there are none. Undefined when
 *   there is no such pipeline.
 */
export async function deletePipeline(tx: Queryable, name: string): Promise<number | undefined> {
  if ((await tx.query(LOCK, [name])).length === 0) return undefined;
  const [row] = await tx.query<{ runs: number }>(OPEN_RUNS, [name]);
  const runs = row?.runs ?? 0;
  if (runs === 0) await tx.query('delete from baton.pipelines where name = $1::text', [name]);
  return runs;
}
