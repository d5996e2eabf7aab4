import type { RunFilter } from '../../run/filter.js';
import type { RunState } from '../../run/run.js';
import { filterPredicate, filterValues } from '../filter_sql.js';
import type { Queryable } from '../pool.js';

/** Ids of matching runs in some of the states, in order of id: a step of a change to many runs. */
const SQL = `
select r.id::text as id
from baton.runs r
where ($1::uuid is null or r.id > $1::uuid)
    and r.state = any ($2::text[]::baton.run_state[])
    and ${filterPredicate('r', 4)}
order by r.id
limit $3::int`;

export async function findRuns(
  db: Queryable,
  filter: RunFilter,
  states: readonly RunState[],
  after: string | undefined,
  limit: number,
): Promise<string[]> {
  const rows = await db.query<{ id: string }>(SQL, [after ?? null, states, limit, ...filterValues(filter)]);
  return rows.map((row) => row.id);
}
