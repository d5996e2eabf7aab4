import { LIMITS } from '../base/limits.js';
import { SCHEDULE_LABEL, type ScheduleDefinition } from '../run/schedule.js';
import type { PlannedSchedule } from '../store/sql/put_schedules.js';
import type { ScheduleTimes } from '../store/sql/read_schedule_times.js';
import { cronProblem, isTimeZone, nextTick } from './cron.js';
import type { Checks } from './validate.js';

/** The rules of one schedule as the `.proto` states them. */
export function validateSchedule(found: Checks, schedule: ScheduleDefinition): void {
  found.name('name', schedule.name, LIMITS.scheduleNameChars);
  if (schedule.cron.length > LIMITS.cronChars) {
    found.text('cron', schedule.cron, LIMITS.cronChars);
  } else {
    const problem = cronProblem(schedule.cron);
    if (problem !== undefined) found.add('cron', problem);
  }
  if (schedule.timeZone.length > LIMITS.timeZoneChars || !isTimeZone(schedule.timeZone))
    found.add('time_zone', 'must be a time zone of the IANA database that this server knows');
  found.text('repository', schedule.repository, LIMITS.repositoryChars);
  // One less than a run may have: the label that names the schedule is added.
  found.labels('labels', schedule.labels, LIMITS.labelCount - 1);
  if (Object.hasOwn(schedule.labels, SCHEDULE_LABEL))
    found.add(`labels[${JSON.stringify(SCHEDULE_LABEL)}]`, 'is set by the server');
  found.payload('input', schedule.input, LIMITS.scheduleInputBytes);
  found.integer('priority', schedule.priority, 0, LIMITS.priorityMax);
  found.text('concurrency_key', schedule.concurrencyKey, LIMITS.concurrencyKeyChars);
  found.integer('max_attempts', schedule.maxAttempts, 0, LIMITS.attemptsMax);
}

/**
 * When each schedule of a definition comes next. One that goes by the same times as before keeps its next tick, which a
 * server may be late with: that tick must be neither skipped nor made twice. Any other starts after `now`.
 *
 * @param now the database's time
 */
export function planSchedules(
  schedules: readonly ScheduleDefinition[],
  stored: ReadonlyMap<string, ScheduleTimes>,
  now: Date,
): PlannedSchedule[] {
  return schedules.map((schedule) => {
    const { name, cron, timeZone } = schedule;
    const before = stored.get(name);
    if (before !== undefined && before.cron === cron && before.timeZone === timeZone)
      return { ...schedule, nextTime: before.nextTime, dueTime: before.dueTime };
    const nextTime = nextTick(cron, timeZone, now);
    return { ...schedule, nextTime, dueTime: nextTime };
  });
}
