import type { Queryable } from '../pool.js';

/** The left join keeps the time when the pipeline has no schedule. */
const SQL = `
select clock_timestamp() as now, s.name, s.cron, s.time_zone, s.next_time, s.due_time
from (select) as one
left join baton.schedules s on s.pipeline = $1::text`;

type TimesRow =
  | { now: Date; name: null }
  | { now: Date; name: string; cron: string; time_zone: string; next_time: Date; due_time: Date };

export interface ScheduleTimes {
  readonly cron: string;
  readonly timeZone: string;
  readonly nextTime: Date;
  readonly dueTime: Date;
}

/**
 * When the schedules of a pipeline come next, by name, and the database's time. Runs inside a transaction that has
 * locked the pipeline: no server makes a tick of it then.
 */
export async function readScheduleTimes(
  tx: Queryable,
  pipeline: string,
): Promise<{ readonly now: Date; readonly schedules: ReadonlyMap<string, ScheduleTimes> }> {
  const rows = await tx.query<TimesRow>(SQL, [pipeline]);
  const [first] = rows;
  if (first === undefined) throw new Error('the database did not tell its time');
  const schedules = new Map<string, ScheduleTimes>();
  for (const row of rows) {
    if (row.name === null) continue;
    const { name, cron, time_zone: timeZone, next_time: nextTime, due_time: dueTime } = row;
    schedules.set(name, { cron, timeZone, nextTime, dueTime });
  }
  return { now: first.now, schedules };
}
