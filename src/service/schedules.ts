import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { Loop } from '../base/loop.js';
import { tickRequestId } from '../run/schedule.js';
import type { Pool } from '../store/pool.js';
import { boundTransaction } from '../store/sql/bound_transaction.js';
import { createScheduledRuns, type Tick } from '../store/sql/create_scheduled_runs.js';
import { isScheduleDue } from '../store/sql/is_schedule_due.js';
import { lockDuePipelines } from '../store/sql/lock_due_pipelines.js';
import { lockDueSchedules, type DueSchedule } from '../store/sql/lock_due_schedules.js';
import { moveSchedules } from '../store/sql/move_schedules.js';
import { setAsideSchedules } from '../store/sql/set_aside_schedules.js';
import { latestTick, nextTick } from './cron.js';

const INTERVAL_MS = 1000;
const BOUNDS = { idleMs: LIMITS.tickIdleMs, lockMs: LIMITS.tickLockMs };
/** `lock_not_available`. */
const LOCK_NOT_AVAILABLE = '55P03';

export interface SchedulesOptions {
  readonly pool: Pool;
  readonly clock: Clock;
  readonly log: Logger;
}

/** One transaction that makes ticks, and how far it has come. */
interface Step {
  readonly limit: number;
  /** Waits for definitions that are under way instead of passing over their pipelines. */
  readonly patient: boolean;
  /** The schedules that were locked. */
  taken: DueSchedule[];
  /** The runs are being inserted. */
  inserting: boolean;
}

/** A tick, and the one that follows it. */
interface PlannedTick extends Tick {
  readonly nextTime: Date;
}

/**
 * Makes the ticks of all schedules. Any number of servers do this side by side: each locks schedules that are due and no
 * other has in hand, and in that one transaction creates the run of the tick and sets the tick after it. So a tick has
 * its run exactly when the schedule has moved on, wherever a server stops.
 *
 * A loop of its own, so that a schedule in trouble never delays the end of a lease.
 */
export class Schedules {
  /** Runs that this server has created. */
  createdRuns = 0;
  /** How often this server could not make a tick and set its schedule aside. */
  failures = 0;
  readonly #options: SchedulesOptions;
  readonly #loop: Loop;

  constructor(options: SchedulesOptions) {
    this.#options = options;
    this.#loop = new Loop(options.clock, INTERVAL_MS, () => this.sweep());
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** Makes what is due. Failures are logged, and the next sweep tries again. */
  async sweep(): Promise<void> {
    const { pool, log } = this.#options;
    try {
      if (!(await isScheduleDue(pool))) return;
      let limit: number = LIMITS.dueSchedules;
      let patient = false;
      while (!this.#loop.stopped) {
        const step: Step = { limit, patient, taken: [], inserting: false };
        try {
          await this.#makeTicks(step);
          if (step.taken.length > 0) continue;
          // What is left is in the hands of another server, or its pipeline is being redefined: that is waited for, or
          // a pipeline that is redefined all the time would never have its ticks.
          if (patient || !(await isScheduleDue(pool))) return;
          patient = true;
        } catch (error) {
          if (step.taken.length === 0 || !isOfOneRun(error, step)) throw error;
          // One of many is to blame: the rest of this sweep takes them one by one, until it is found alone.
          if (limit > 1) limit = 1;
          else await this.#setAside(step.taken, error);
        }
      }
    } catch (error) {
      log.warn({ err: error }, 'schedules could not be looked at; trying again');
    }
  }

  async #makeTicks(step: Step): Promise<void> {
    const { created, broken } = await this.#options.pool.transaction(async (tx) => {
      await boundTransaction(tx, BOUNDS);
      if (step.patient) await lockDuePipelines(tx, step.limit);
      step.taken = await lockDueSchedules(tx, step.limit);
      const plan = planTicks(step.taken);
      if (plan.broken.size > 0) await setAsideSchedules(tx, [...plan.broken.keys()], LIMITS.scheduleRetryMs);
      if (plan.ticks.length === 0) return { created: 0, ...plan };
      step.inserting = true;
      const runs = await createScheduledRuns(tx, plan.ticks);
      step.inserting = false;
      await moveSchedules(tx, plan.ticks);
      return { created: runs, ...plan };
    });
    this.createdRuns += created;
    for (const [schedule, error] of broken) this.#failed(schedule, error);
  }

  async #setAside(schedules: readonly DueSchedule[], error: unknown): Promise<void> {
    await setAsideSchedules(this.#options.pool, schedules, LIMITS.scheduleRetryMs);
    for (const schedule of schedules) this.#failed(schedule, error);
  }

  #failed({ pipeline, name, nextTime }: DueSchedule, error: unknown): void {
    this.failures += 1;
    this.#options.log.error(
      { err: error, pipeline, schedule: name, tick: nextTime },
      'a schedule could not create its run; it is tried again later',
    );
  }
}

/** What to make of the schedules that are due, and which cannot be made out and why: those stop no other. */
function planTicks(due: readonly DueSchedule[]): { ticks: PlannedTick[]; broken: Map<DueSchedule, unknown> } {
  const ticks: PlannedTick[] = [];
  const broken = new Map<DueSchedule, unknown>();
  for (const schedule of due) {
    try {
      ticks.push(planTick(schedule));
    } catch (error) {
      broken.set(schedule, error);
    }
  }
  return { ticks, broken };
}

/**
 * The tick to make: the next one, while it is not late enough to count as missed, and else the latest of those that
 * have come, which stands for all before it.
 */
function planTick({ pipeline, name, cron, timeZone, nextTime, now }: DueSchedule): PlannedTick {
  let time = nextTime;
  if (now.getTime() - nextTime.getTime() > LIMITS.tickMissedMs) {
    const latest = latestTick(cron, timeZone, now);
    // A zone whose rules have changed since: the tick that was promised comes in any case.
    if (latest > time) time = latest;
  }
  return {
    pipeline,
    name,
    time,
    requestId: tickRequestId(pipeline, name, time),
    nextTime: nextTick(cron, timeZone, time),
  };
}

/**
 * Whether an error is about what was to be written, and not about the way to the database: the run was refused, or somebody
 * holds its request_id in an open transaction. A commit that waited in vain for the log says nothing about the run.
 */
function isOfOneRun(error: unknown, { inserting }: Step): boolean {
  if (!(error instanceof BatonError)) return true;
  const { cause } = error as { cause?: { code?: unknown } };
  return inserting && cause?.code === LOCK_NOT_AVAILABLE;
}
