import { setTimeout as pause } from 'node:timers/promises';
import type pg from 'pg';
import type { Logger } from '../base/log.js';
import { DatabaseUnusableError } from './session_check.js';
import { describeSessions, sessionText } from './describe_sessions.js';

/** Advisory lock of migrations, in the same key space as the log's. */
const MIGRATION_LOCK = 477355191;

const HOLDERS = `
select array_agg(l.pid) as pids
from pg_locks l
where l.locktype = 'advisory' and l.granted and l.pid is not null
  and l.classid = 0 and l.objid = $1::bigint::oid and l.objsubid = 1
  and l.database = (select d.oid from pg_database d where d.datname = current_database())`;

const POLL_MS = 250;
/** A server that is only a moment ahead needs no line. */
const FIRST_LINE_MS = 1000;
const LINE_MS = 10_000;
/** How long a holder that does nothing is waited for. */
const STRANDED_MS = 30_000;

/** The times, for tests. */
export interface LockTimes {
  readonly firstLineMs: number;
  readonly strandedMs: number;
}

export interface LockOptions {
  readonly log: Logger;
  readonly signal: AbortSignal;
  readonly times?: LockTimes | undefined;
}

/**
 * Takes the lock under which one server migrates and the others wait, for the rest of the session. Whoever holds it is
 * named in the log. One that migrates is waited for, however long that takes. One that does nothing has forgotten the lock.
 *
 * @throws DatabaseUnusableError when the holder has done nothing for half a minute; the message says how to end it
 */
export async function lockMigrations(client: pg.Client, options: LockOptions): Promise<void> {
  const { log, signal } = options;
  const { firstLineMs, strandedMs } = options.times ?? {
    firstLineMs: FIRST_LINE_MS,
    strandedMs: STRANDED_MS,
  };
  const startedAt = performance.now();
  let nextLineMs = firstLineMs;
  for (;;) {
    const { rows } = await client.query<{ locked: boolean }>('select pg_try_advisory_lock($1) as locked', [
      MIGRATION_LOCK,
    ]);
    if (rows[0]?.locked === true) return;
    const waitedMs = performance.now() - startedAt;
    if (waitedMs >= Math.min(nextLineMs, strandedMs)) {
      const holders = await client.query<{ pids: number[] | null }>(HOLDERS, [MIGRATION_LOCK]);
      const sessions = await describeSessions(client, holders.rows[0]?.pids ?? []);
      const who = sessions.map(sessionText).join(', ') || 'a prepared transaction';
      if (waitedMs >= strandedMs && !sessions.some(({ is_at_work }) => is_at_work)) {
        const end = sessions.map(({ pid }) => `select pg_terminate_backend(${pid});`).join(' ');
        throw new DatabaseUnusableError(
          `the lock of migrations (advisory lock ${MIGRATION_LOCK}) is held by ${who}, which does nothing with it. ` +
            `Unless it is needed, end it: ${end}`,
        );
      }
      if (waitedMs >= nextLineMs) {
        nextLineMs = waitedMs + LINE_MS;
        log.warn(
          { waitedMs: Math.round(waitedMs), holders: sessions },
          `waiting for the lock of migrations (advisory lock ${MIGRATION_LOCK}), which is held by ${who}`,
        );
      }
    }
    await pause(POLL_MS, undefined, { signal });
  }
}
