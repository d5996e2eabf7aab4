import type { RunEvent } from '../../run/run.js';
import { cutByBytes, PAGE_PAYLOAD } from '../payload_sql.js';
import type { Queryable } from '../pool.js';
import { decodeEvent, eventColumns, type EventRow } from '../rows.js';

/** Events of a run, oldest first. */
const page = (columns: string, from: string): string => `
  select ${columns}
  from ${from}
  where e.run_id = $1::uuid and e.version > $2::bigint
  order by e.version
  limit $3::int`;

const SQL = page(eventColumns('e'), 'baton.run_events e');
const SQL_WITH_PAYLOAD = `
select ${eventColumns('page')}, ${PAGE_PAYLOAD}, page.page_rows::int as page_rows
from ${cutByBytes(
  page('e.*, r.input', 'baton.run_events e left join baton.runs r on r.id = e.run_id'),
  'version',
  '$4::bigint',
)}
order by page.version`;

export interface HistoryPage {
  readonly events: readonly RunEvent[];
  /** The page ended before its limit, because of its bytes. */
  readonly isCut: boolean;
}

/**
 * One page of a run's history.
 *
 * @param payloadBytes where given, events carry their payload and the page ends after so many bytes of it
 */
export async function listRunEvents(
  db: Queryable,
  runId: string,
  afterVersion: bigint,
  limit: number,
  payloadBytes?: number,
): Promise<HistoryPage> {
  const values = [runId, afterVersion, limit];
  type Row = EventRow & { page_rows?: number };
  const rows =
    payloadBytes === undefined
      ? await db.query<Row>(SQL, values)
      : await db.query<Row>(SQL_WITH_PAYLOAD, [...values, payloadBytes]);
  return { events: rows.map(decodeEvent), isCut: (rows[0]?.page_rows ?? 0) > rows.length };
}
