import type { RunFilter } from '../../run/filter.js';
import type { Run } from '../../run/run.js';
import { filterPredicate, filterValues } from '../filter_sql.js';
import { cutByBytes, PAGE_PAYLOAD } from '../payload_sql.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';
import { HEAD } from './read_head.js';

/** Runs, newest first. */
const page = (columns: string): string => `
  select ${columns}
  from baton.runs r
  where ($1::uuid is null or r.id < $1::uuid)
    and ${filterPredicate('r', 3)}
  order by r.id desc
  limit $2::int`;

/**
 * One page of runs and the log's head, both in the snapshot of this one statement: a watch from that revision continues the
 * list without gap or overlap. The left join keeps the head when no run matches.
 */
const sql = (select: string): string => `
with page as materialized (${select}
)
select head.revision as head_revision, head.epoch, page.*
from (${HEAD}) head left join page on true
order by page.id desc`;

const SQL = sql(page(runColumns('r')));
const SQL_WITH_PAYLOAD = sql(
  `select ${runColumns('page')}, ${PAGE_PAYLOAD}, page.page_rows::int as page_rows from ${cutByBytes(page('r.*'), 'id desc', '$10::bigint')}`,
);

export interface RunPage {
  readonly runs: readonly Run[];
  /** The page ended before its limit, because of its bytes. */
  readonly isCut: boolean;
  readonly epoch: string;
  readonly revision: bigint;
}

/**
 * @param before the id after which the page starts, undefined for the first page
 * @param payloadBytes where given, runs carry their payload and the page ends after so many bytes of it
 */
export async function listRuns(
  db: Queryable,
  filter: RunFilter,
  before: string | undefined,
  limit: number,
  payloadBytes?: number,
): Promise<RunPage> {
  const values = [before ?? null, limit, ...filterValues(filter)];
  type Row = (RunRow | { id: null }) & {
    head_revision: bigint;
    epoch: string;
    page_rows?: number | null;
  };
  const rows =
    payloadBytes === undefined
      ? await db.query<Row>(SQL, values)
      : await db.query<Row>(SQL_WITH_PAYLOAD, [...values, payloadBytes]);
  const [first] = rows;
  if (first === undefined) throw new Error('the log has no row of its own');
  return {
    isCut: (first.page_rows ?? 0) > rows.length,
    runs: rows.flatMap((row) => (row.id === null ? [] : [decodeRun(row)])),
    epoch: first.epoch,
    revision: first.head_revision,
  };
}
