import type { RunEvent } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeEvent, eventColumns, type EventRow } from '../rows.js';

/** One page of a run's history, oldest first, with its payload; the page ends early after so many bytes of that. */
const SQL = `
select ${eventColumns('page')}, page.output, page.checkpoint, page.input
from (
  select
    e.*, r.input,
    row_number() over (order by e.version) as place,
    sum(
      octet_length(coalesce(e.output::text, '')) + octet_length(coalesce(e.checkpoint::text, ''))
      + octet_length(coalesce(r.input::text, ''))
    ) over (order by e.version) as bytes
  from (
    select * from baton.run_events e
    where e.run_id = $1::uuid and e.version > $2::bigint
    order by e.version
    limit $3::int
  ) e
  left join baton.runs r on r.id = e.run_id
) page
where page.place = 1 or page.bytes <= $4::bigint
order by page.version`;

export async function listRunEvents(
  db: Queryable,
  runId: string,
  afterVersion: bigint,
  limit: number,
  payloadBytes: number,
): Promise<RunEvent[]> {
  return (await db.query<EventRow>(SQL, [runId, afterVersion, limit, payloadBytes])).map(decodeEvent);
}
