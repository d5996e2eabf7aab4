import { randomUUID } from 'node:crypto';
import { systemClock } from './clock.js';
import { kindOf, type Logger } from './log.js';
import { LineLimit } from './log_limit.js';

const limits = new WeakMap<Logger, LineLimit<string>>();

/**
 * Writes an internal error to the log, and gives the id under which the client and the log know it. Of errors alike, the
 * first ones of a few seconds have a line and an id each; those that follow share the id of the last line, which says what
 * they are, and a summary tells how many they were. So each id that anybody is given is in the log.
 */
export function logInternalError(log: Logger, error: unknown, message: string): string {
  const id = randomUUID();
  const known = limitOf(log).admit(kindOf(error, message), id);
  if (known === id) log.error({ err: error, error_id: id }, message);
  return known;
}

function limitOf(log: Logger): LineLimit<string> {
  let limit = limits.get(log);
  if (limit === undefined) {
    limit = new LineLimit(systemClock, (suppressed, id) =>
      log.error({ error_id: id, suppressed }, 'more internal errors like the one with this id'),
    );
    limits.set(log, limit);
  }
  return limit;
}
