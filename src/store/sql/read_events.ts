import type { RunEvent } from '../../run/run.js';
import { cutByBytes, PAGE_PAYLOAD } from '../payload_sql.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeEvent, eventColumns, type EventRow } from '../rows.js';
import { isLostSql } from './is_lost.js';

/**
 * The row of the log comes with every event, and without one: whether this is the log of the cursor, and history after
 * it is still kept, is decided in the snapshot that the page was read in.
 */
const JOIN_LOG = `
right join (
  select log.oldest_revision, log.epoch::text as log_epoch, ${isLostSql(1)} as is_lost
  from baton.log log
) log on true
order by page.revision`;

const SQL: Statement = {
  name: 'read_events',
  text: `
select page.*, log.*
from (
  select ${eventColumns('e')}
  from baton.run_events e
  where e.revision > $1::bigint
  order by e.revision
  limit $2::int
) page
${JOIN_LOG}`,
};

/** The same with input, output and checkpoint, cut off after so many bytes of them. The input is read from the run. */
const SQL_WITH_PAYLOAD: Statement = {
  name: 'read_events_with_payload',
  text: `
select page.*, log.*
from (
  select ${eventColumns('page')}, ${PAGE_PAYLOAD}
  from ${cutByBytes(
    `
    select e.*, r.input
    from (
      select * from baton.run_events e
      where e.revision > $1::bigint
      order by e.revision
      limit $2::int
    ) e
    -- Event by event: a join would be free to read all runs.
    left join lateral (select r.input from baton.runs r where r.id = e.run_id offset 0) r on true`,
    'revision',
    '$3::bigint',
  )}
) page
${JOIN_LOG}`,
};

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
  readonly epoch: string;
  /** The cursor stands at a change that a failover has lost. */
  readonly isLost: boolean;
}

/** One page of the log in revision order. */
export async function readEvents(db: Queryable, options: ReadEventsOptions): Promise<EventPage> {
  const values = [options.after, options.limit];
  type Row = (EventRow | { revision: null }) & {
    oldest_revision: bigint;
    log_epoch: string;
    is_lost: boolean;
  };
  const rows =
    options.payloadBytes === undefined
      ? await db.query<Row>(SQL, values)
      : await db.query<Row>(SQL_WITH_PAYLOAD, [...values, options.payloadBytes]);
  const [first] = rows;
  if (first === undefined) throw new Error('the log has no row of its own');
  return {
    events: rows.flatMap((row) => (row.revision === null ? [] : [decodeEvent(row)])),
    oldestRevision: first.oldest_revision,
    epoch: first.log_epoch,
    isLost: first.is_lost,
  };
}
