import type { Schedule } from '../../run/schedule.js';
import type { Queryable } from '../pool.js';

const REMOVE = 'delete from baton.schedules where pipeline = $1::text';

const INSERT = `
insert into baton.schedules (
  pipeline, position, name, cron, time_zone, repository, labels, input, priority, concurrency_key, max_attempts,
  next_time, due_time
)
select
  $1::text, i.position - 1, i.name, i.cron, i.time_zone, i.repository, i.labels::jsonb, i.input::jsonb, i.priority,
  i.concurrency_key, nullif(i.max_attempts, 0), i.next_time, i.due_time
from unnest(
  $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[], $9::text[], $10::int[],
  $11::timestamptz[], $12::timestamptz[]
) with ordinality as i (
  name, cron, time_zone, repository, labels, input, priority, concurrency_key, max_attempts, next_time, due_time, position
)`;

/** A schedule with the time at which a server is to look at it: `nextTime`, or later after a failure. */
export interface PlannedSchedule extends Schedule {
  readonly dueTime: Date;
}

/** Replaces all schedules of a pipeline. Runs inside the transaction that has locked it. */
export async function putSchedules(
  tx: Queryable,
  pipeline: string,
  schedules: readonly PlannedSchedule[],
): Promise<void> {
  await tx.query(REMOVE, [pipeline]);
  if (schedules.length === 0) return;
  await tx.query(INSERT, [
    pipeline,
    schedules.map((schedule) => schedule.name),
    schedules.map((schedule) => schedule.cron),
    schedules.map((schedule) => schedule.timeZone),
    schedules.map((schedule) => schedule.repository),
    schedules.map((schedule) => JSON.stringify(schedule.labels)),
    schedules.map((schedule) => (schedule.input === undefined ? null : JSON.stringify(schedule.input))),
    schedules.map((schedule) => schedule.priority),
    schedules.map((schedule) => schedule.concurrencyKey),
    schedules.map((schedule) => schedule.maxAttempts),
    schedules.map((schedule) => schedule.nextTime.toISOString()),
    schedules.map((schedule) => schedule.dueTime.toISOString()),
  ]);
}
