import type { RunEvent } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeEvent, eventColumns, type EventRow } from '../rows.js';

/**
 * The row of the log comes with every event, and without one: whether history after the cursor is still kept is
 * decided in the snapshot that the page was read in.
 */
const SQL = `
select log.oldest_revision, page.*
from baton.log log
left join lateral (
  select ${eventColumns('e')}
  from baton.run_events e
  where e.revision > $1::bigint
  order by e.revision
  limit $2::int
) page on true
order by page.revision`;

/** Bytes of one event's payload as JSON text. */
const PAYLOAD_BYTES = `
  octet_length(coalesce(e.output::text, '')) + octet_length(coalesce(e.checkpoint::text, ''))
  + octet_length(coalesce(r.input::text, ''))`;

/**
 * The same with input, output and checkpoint, cut off after so many bytes of them; at least one event is returned.
 * The input never changes and is read from the run.
 */
const SQL_WITH_PAYLOAD = `
select log.oldest_revision, page.*
from baton.log log
left join (
  select ${eventColumns('e')}, e.output, e.checkpoint, e.input
  from (
    select e.*, r.input, sum(${PAYLOAD_BYTES}) over (order by e.revision) - (${PAYLOAD_BYTES}) as bytes_before
    from (
      select * from baton.run_events e
      where e.revision > $1::bigint
      order by e.revision
      limit $2::int
    ) e
    left join baton.runs r on r.id = e.run_id
  ) e
  where e.bytes_before < $3::bigint
) page on true
order by page.revision`;

export interface ReadEventsOptions {
  /** Events after this revision. */
  readonly after: bigint;
  readonly limit: number;
  /** Where set, events carry their payload and the page ends after so many bytes of it. */
  readonly payloadBytes: number | undefined;
}

export interface EventPage {
  readonly events: readonly RunEvent[];
  /** The oldest revision of the kept history. */
  readonly oldestRevision: bigint;
}

/** One page of the log in revision order. */
export async function readEvents(db: Queryable, options: ReadEventsOptions): Promise<EventPage> {
  const values = [options.after, options.limit];
  type Row = (EventRow | { revision: null }) & { oldest_revision: bigint };
  const rows =
    options.payloadBytes === undefined
      ? await db.query<Row>(SQL, values)
      : await db.query<Row>(SQL_WITH_PAYLOAD, [...values, options.payloadBytes]);
  return {
    events: rows.flatMap((row) => (row.revision === null ? [] : [decodeEvent(row)])),
    oldestRevision: rows[0]?.oldest_revision ?? 1n,
  };
}
