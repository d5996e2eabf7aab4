import { Cron } from 'croner';

/** Where a field may have a value: a number of two digits, or a name where there are names. */
const NUMBER = String.raw`\d{1,2}`;
const MONTH = `(?:${NUMBER}|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)`;
const WEEKDAY = `(?:${NUMBER}|sun|mon|tue|wed|thu|fri|sat)`;

/** A list of `*`, values, ranges and steps, and of what else this one field may have. */
function field(value: string, ...more: string[]): string {
  const item = [String.raw`\*(?:/${NUMBER})?`, `${value}(?:-${value}(?:/${NUMBER})?)?`, ...more].join('|');
  return `(?:${item})(?:,(?:${item}))*`;
}

/**
 * The form of an expression, as the `.proto` states it. The library reads more than this (nicknames, years, `W`, `?`,
 * `+`), which is not ours to promise; whether the values are in their ranges, it says itself.
 */
const FORM = new RegExp(
  `^(?:${field(NUMBER)} )?${field(NUMBER)} ${field(NUMBER)} ${field(NUMBER, 'l')} ${field(MONTH)} ` +
    `${field(WEEKDAY, `${WEEKDAY}l`, `${WEEKDAY}#[1-5]`)}$`,
  'i',
);
/** What the IANA's names look like; an offset such as `+02:00` is not one, though some runtimes take it for a zone. */
const ZONE_FORM = /^[a-z][a-z0-9_+-]*(?:\/[a-z0-9_+-]+)*$/i;
/** An expression has no year, so whether it ever fires does not depend on when one begins to look. */
const ANY_TIME = new Date('2000-01-01T00:00:00Z');

/** An expression or a zone that this server cannot read, although one has accepted it. */
export class CronError extends Error {
  override readonly name = 'CronError';
}

function parse(cron: string, timeZone: string): Cron {
  // Paused: it is asked for times and never runs anything. Lists and ranges of hours count as fixed times, as in the
  // cron of Unix, so that adding an hour to a schedule does not change what happens at a change of clocks.
  return new Cron(cron, {
    paused: true,
    timezone: timeZone,
    mode: '5-or-6-parts',
    fixedTimeRule: 'no-wildcard',
  });
}

/** Says what is wrong with an expression, or nothing. */
export function cronProblem(cron: string): string | undefined {
  if (!FORM.test(cron)) return 'must be a cron expression of 5 or 6 fields';
  try {
    return parse(cron, 'UTC').nextRun(ANY_TIME) === null ? 'never comes: there is no such day' : undefined;
  } catch (error) {
    return `must be a cron expression: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Whether this runtime knows a time zone by its IANA name. */
export function isTimeZone(name: string): boolean {
  if (!ZONE_FORM.test(name)) return false;
  try {
    return Intl.DateTimeFormat('en', { timeZone: name }) instanceof Intl.DateTimeFormat;
  } catch {
    return false;
  }
}

function ask(cron: string, timeZone: string, question: (parsed: Cron) => Date | null | undefined): Date {
  let answer: Date | null | undefined;
  try {
    answer = question(parse(cron, timeZone));
  } catch (error) {
    throw new CronError(`cannot read the schedule ${JSON.stringify(cron)} in ${timeZone}`, { cause: error });
  }
  if (answer === null || answer === undefined) {
    throw new CronError(`the schedule ${JSON.stringify(cron)} in ${timeZone} does not come any more`);
  }
  return answer;
}

/** The first tick after a time. */
export function nextTick(cron: string, timeZone: string, after: Date): Date {
  return ask(cron, timeZone, (parsed) => parsed.nextRun(after));
}

/** The last tick at or before a time. */
export function latestTick(cron: string, timeZone: string, at: Date): Date {
  // The library looks before a time, and ticks have no milliseconds.
  const justAfter = new Date(at.getTime() + 1);
  return ask(cron, timeZone, (parsed) => parsed.previousRuns(1, justAfter)[0]);
}
