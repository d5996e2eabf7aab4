import type { RunEvent } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeEvent, eventColumns, type EventRow } from '../rows.js';

const SQL = `
select ${eventColumns('e')}
from baton.run_events e
where e.revision > $1::bigint
order by e.revision
limit $2::int`;

/** Bytes of one event's payload as JSON text. */
const PAYLOAD_BYTES = `
  octet_length(coalesce(e.output::text, '')) + octet_length(coalesce(e.checkpoint::text, ''))
  + octet_length(coalesce(r.input::text, ''))`;

/**
 * The same with input, output and checkpoint, cut off after so many bytes of them; at least one event is returned.
 * The input never changes and is read from the run.
 */
const SQL_WITH_PAYLOAD = `
select ${eventColumns('page')}, page.output, page.checkpoint, page.input
from (
  select e.*, r.input, sum(${PAYLOAD_BYTES}) over (order by e.revision) - (${PAYLOAD_BYTES}) as bytes_before
  from (
    select * from baton.run_events e
    where e.revision > $1::bigint
    order by e.revision
    limit $2::int
  ) e
  left join baton.runs r on r.id = e.run_id
) page
where page.bytes_before < $3::bigint
order by page.revision`;

export interface ReadEventsOptions {
  /** Events after this revision. */
  readonly after: bigint;
  readonly limit: number;
  /** Where set, events carry their payload and the page ends after so many bytes of it. */
  readonly payloadBytes: number | undefined;
}

/** One page of the log in revision order. */
export async function readEvents(db: Queryable, options: ReadEventsOptions): Promise<RunEvent[]> {
  const values = [options.after, options.limit];
  const rows =
    options.payloadBytes === undefined
      ? await db.query<EventRow>(SQL, values)
      : await db.query<EventRow>(SQL_WITH_PAYLOAD, [...values, options.payloadBytes]);
  return rows.map(decodeEvent);
}
