import type { Queryable } from '../pool.js';

/**
 * Takes schedules whose tick is to be made, until the end of the transaction. What another server has in hand is passed
 * over, and so is a pipeline that is just being redefined: nobody waits here. The pipeline comes with the schedule, in
 * the mode in which inserting the run needs it, so that this transaction and PutPipeline cannot wait for each other.
 */
const SQL = `
select s.pipeline, s.name, s.cron, s.time_zone, s.next_time, clock_timestamp() as now
from baton.schedules s
join baton.pipelines p on p.name = s.pipeline
where s.due_time <= (select clock_timestamp())
order by s.due_time
limit $1::int
for key share of p skip locked
for update of s skip locked`;

interface DueRow {
  pipeline: string;
  name: string;
  cron: string;
  time_zone: string;
  next_time: Date;
  now: Date;
}

export interface DueSchedule {
  readonly pipeline: string;
  readonly name: string;
  readonly cron: string;
  readonly timeZone: string;
  readonly nextTime: Date;
  /** The database's time, not before `nextTime`. */
  readonly now: Date;
}

/** Runs inside a transaction of the caller, which makes the ticks. */
export async function lockDueSchedules(tx: Queryable, limit: number): Promise<DueSchedule[]> {
  const rows = await tx.query<DueRow>(SQL, [limit]);
  return rows.map(({ pipeline, name, cron, time_zone, next_time, now }) => ({
    pipeline,
    name,
    cron,
    timeZone: time_zone,
    nextTime: next_time,
    now,
  }));
}
