import type { Queryable } from '../pool.js';

/**
 * Waits for pipelines that are just being redefined, and keeps them as they are until the end of the transaction. By name,
 * so that whoever waits for several of them comes to none before another.
 */
const SQL = `
select p.name
from baton.pipelines p
where p.name in (
  select s.pipeline from baton.schedules s
  where s.due_time <= (select clock_timestamp())
  order by s.due_time
  limit $1::int
)
order by p.name
for key share of p`;

/** The pipelines of schedules that are due, those first that have been due longest. */
export async function lockDuePipelines(tx: Queryable, limit: number): Promise<string[]> {
  const rows = await tx.query<{ name: string }>(SQL, [limit]);
  return rows.map(({ name }) => name);
}
