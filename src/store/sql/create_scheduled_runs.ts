import { SCHEDULE_LABEL } from '../../run/schedule.js';
import type { Queryable } from '../pool.js';

/**
 * Inserts the run of each tick from what its schedule says. A tick whose run is there already is left out: the ids of
 * requests are distinct even if two transactions should make the same tick.
 */
const SQL = `
insert into baton.runs (
  pipeline, repository, labels, input, priority, concurrency_key, max_attempts, schedule_time, request_id
)
select
  s.pipeline, s.repository, s.labels || jsonb_build_object($5::text, s.name), s.input, s.priority, s.concurrency_key,
  s.max_attempts, i.tick, i.request_id
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[]) as i (pipeline, name, tick, request_id)
join baton.schedules s on s.pipeline = i.pipeline and s.name = i.name
-- In the order in which every insert takes request ids, so that none waits for another in a circle.
order by i.request_id
on conflict (request_id) where request_id is not null do nothing
returning id`;

export interface Tick {
  readonly pipeline: string;
  /** The name of the schedule. */
  readonly name: string;
  readonly time: Date;
  readonly requestId: string;
}

/** @returns how many runs were created */
export async function createScheduledRuns(tx: Queryable, ticks: readonly Tick[]): Promise<number> {
  const rows = await tx.query(SQL, [
    ticks.map((tick) => tick.pipeline),
    ticks.map((tick) => tick.name),
    ticks.map((tick) => tick.time.toISOString()),
    ticks.map((tick) => tick.requestId),
    SCHEDULE_LABEL,
  ]);
  return rows.length;
}
