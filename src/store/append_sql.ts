import type { Queryable } from './pool.js';

/**
 * A common table expression, to be joined by the statement that changes runs: says how its events get into the log. By
 * the statement itself when that is its whole transaction, else by the deferred trigger, which takes the lock of the log
 * last; migration 0005 says why. The parameter is `appendMode` of where the statement runs.
 */
export function appendBy(parameter: string): string {
  return `append as materialized (select set_config('baton.append', ${parameter}::text, true) as mode)`;
}

export function appendMode({ commits }: Queryable): 'statement' | 'row' {
  return commits ? 'statement' : 'row';
}
