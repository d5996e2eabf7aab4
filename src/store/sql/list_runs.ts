import type { RunFilter } from '../../run/filter.js';
import type { Run } from '../../run/run.js';
import { filterPredicate, filterValues } from '../filter_sql.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';
import { HEAD } from './read_head.js';

/**
 * One page of runs, newest first, and the log's head, both in the snapshot of this one statement: a watch from that
 * revision continues the list without gap or overlap. The left join keeps the head when no run matches.
 */
const SQL = `
with page as materialized (
  select ${runColumns('r')}
  from baton.runs r
  where ($1::uuid is null or r.id < $1::uuid)
    and ${filterPredicate('r', 3)}
  order by r.id desc
  limit $2::int
)
select head.revision as head_revision, head.epoch, page.*
from (${HEAD}) head left join page on true
order by page.id desc`;

export interface RunPage {
  readonly runs: readonly Run[];
  readonly epoch: string;
  readonly revision: bigint;
}

/** @param before the id after which the page starts, undefined for the first page */
export async function listRuns(
  db: Queryable,
  filter: RunFilter,
  before: string | undefined,
  limit: number,
): Promise<RunPage> {
  const rows = await db.query<(RunRow | { id: null }) & { head_revision: bigint; epoch: string }>(SQL, [
    before ?? null,
    limit,
    ...filterValues(filter),
  ]);
  const [first] = rows;
  if (first === undefined) throw new Error('the log has no row of its own');
  return {
    runs: rows.flatMap((row) => (row.id === null ? [] : [decodeRun(row)])),
    epoch: first.epoch,
    revision: first.head_revision,
  };
}
