import type { RunFilter } from '../../run/filter.js';
import type { Run } from '../../run/run.js';
import { filterPredicate, filterValues } from '../filter_sql.js';
import { cutByBytes, PAGE_PAYLOAD } from '../payload_sql.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

/** One page of matching runs in order of id. */
const sql = (columns: string): string => `
select ${columns}
from baton.runs r
where ($1::uuid is null or r.id > $1::uuid)
    and ${filterPredicate('r', 3)}
order by r.id
limit $2::int`;

const SQL = sql(runColumns('r'));

/** The same with payload, cut off after so many bytes of it. */
const SQL_WITH_PAYLOAD = `
select ${runColumns('page')}, ${PAGE_PAYLOAD}
from ${cutByBytes(sql('r.*'), 'id', '$10::bigint')}
order by page.id`;

export interface ReadStateOptions {
  readonly filter: RunFilter;
  /** The id after which the page starts, undefined for the first page. */
  readonly after: string | undefined;
  readonly limit: number;
  /** Where set, runs carry their payload and the page ends after so many bytes of it. */
  readonly payloadBytes: number | undefined;
}

/** @returns the page; an empty one is the end */
export async function readState(db: Queryable, options: ReadStateOptions): Promise<Run[]> {
  const values = [options.after ?? null, options.limit, ...filterValues(options.filter)];
  const rows =
    options.payloadBytes === undefined
      ? await db.query<RunRow>(SQL, values)
      : await db.query<RunRow>(SQL_WITH_PAYLOAD, [...values, options.payloadBytes]);
  return rows.map(decodeRun);
}
