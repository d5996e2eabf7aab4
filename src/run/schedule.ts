import type { JsonObject } from './run.js';

/** A schedule as a user defines it, with every default filled in. */
export interface ScheduleDefinition {
  readonly name: string;
  /** 5 or 6 fields; `service/cron.ts` says which. */
  readonly cron: string;
  /** A name of the IANA database. */
  readonly timeZone: string;
  readonly repository: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly input: JsonObject | undefined;
  readonly priority: number;
  readonly concurrencyKey: string;
  /** 0 for each stage's own. */
  readonly maxAttempts: number;
}

/** A schedule as it is stored. */
export interface Schedule extends ScheduleDefinition {
  /** The next tick: a time at which a run is to be created. */
  readonly nextTime: Date;
}

export const SCHEDULE_DEFAULTS = { timeZone: 'UTC' } as const;

/** The label that every run of a schedule has, with the schedule's name. */
export const SCHEDULE_LABEL = 'baton.schedule';

/** The request_id of the run of one tick: one tick cannot have two runs, whatever happens to the schedule's row. */
export function tickRequestId(pipeline: string, schedule: string, tick: Date): string {
  return `schedule:${pipeline}/${schedule}@${tick.toISOString().replace('.000Z', 'Z')}`;
}
