import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import { backoffMs } from '../base/backoff.js';
import { BatonError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import { assertMigrated, migrate } from './migrate.js';
import { inSession } from './one_session.js';
import { sessionConfig } from './session.js';
import {
  checkSession,
  DatabaseUnusableError,
  PoolerError,
  ReadOnlyError,
  type DatabaseIdentity,
} from './session_check.js';
import { toStoreError } from './store_error.js';

const RETRY = { initialMs: 100, maxMs: 2000 };
const WAIT_MS = 30_000;
const TIMEOUTS = { connectionTimeoutMillis: 5000, query_timeout: 5000 };

/** Wrong names, passwords and rights do not mend themselves while a server starts: its user should hear of them at once. */
const OF_THE_OPERATOR = /^(28|3D|42)/;

export interface WayToDatabase {
  readonly url: string;
  /** Where the URL comes from, for messages. */
  readonly variable: 'DATABASE_URL' | 'BATON_LISTEN_URL';
  readonly pooled: boolean;
}

export interface WaitOptions {
  readonly log: Logger;
  readonly signal: AbortSignal;
  /** How long a database that is away is waited for; half a minute when absent. */
  readonly waitMs?: number;
}

/**
 * Waits until the database takes connections and can be written to, up to half a minute, so that Baton and its database
 * may be started together, and makes sure that Baton can work with it.
 *
 * @throws DatabaseUnusableError; PoolerError where a direct way is wanted and this is none
 */
export async function waitForDatabase(way: WayToDatabase, options: WaitOptions): Promise<DatabaseIdentity> {
  const { log, signal } = options;
  const { url: databaseUrl, pooled } = way;
  const config = { ...sessionConfig({ databaseUrl, name: 'baton', pooled }), ...TIMEOUTS };
  const deadline = performance.now() + (options.waitMs ?? WAIT_MS);
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await inSession(config, signal, (client) => checkSession(client, pooled));
    } catch (error) {
      signal.throwIfAborted();
      if (isPooler(error)) throw new PoolerError(poolerText(way), { cause: error });
      const reason = error instanceof Error ? error.message || error.name : String(error);
      if (error instanceof DatabaseUnusableError && !(error instanceof ReadOnlyError)) throw error;
      if (!isAway(error) || performance.now() > deadline) {
        throw new DatabaseUnusableError(unusableText(way, reason), { cause: error });
      }
      log.warn({ reason, attempt }, 'the database does not answer yet; trying again');
      await pause(backoffMs(RETRY, attempt), undefined, { signal });
    }
  }
}

function unusableText({ variable }: WayToDatabase, reason: string): string {
  const database = variable === 'BATON_LISTEN_URL' ? 'the database of BATON_LISTEN_URL' : 'the database';
  // So it is told by the driver.
  const why = reason.includes('client password must be a string')
    ? 'it asks for a password, and there is none: put it into the URL, into PGPASSWORD or into ~/.pgpass'
    : reason;
  return `${database} cannot be used: ${why}`;
}

function isAway(error: unknown): boolean {
  if (error instanceof ReadOnlyError) return true;
  const { code } = error as { code?: unknown };
  if (error instanceof pg.DatabaseError && OF_THE_OPERATOR.test(String(code))) return false;
  return toStoreError(error) instanceof BatonError;
}

/** PgBouncer refuses settings that it does not follow; other poolers, or one that was told to, drop them. */
function isPooler(error: unknown): boolean {
  if (error instanceof PoolerError) return true;
  return error instanceof pg.DatabaseError && /unsupported startup parameter/.test(error.message);
}

function poolerText({ variable }: WayToDatabase): string {
  if (variable === 'BATON_LISTEN_URL') {
    return (
      'BATON_LISTEN_URL leads to a pooler, through which there are neither notifications nor safe migrations: it has to ' +
      'lead to PostgreSQL itself.'
    );
  }
  return (
    'DATABASE_URL leads to a pooler that takes no settings for a session, such as PgBouncer: set BATON_LISTEN_URL to a URL ' +
    'that leads to PostgreSQL itself. It is used for migrations and notifications, and DATABASE_URL for all else. Where ' +
    'there is none, run "baton migrate" from elsewhere and start with BATON_NO_LISTEN=1.'
  );
}

export interface PrepareOptions extends WaitOptions {
  readonly databaseUrl: string;
  readonly listenUrl: string | undefined;
  /** Whether this server has a LISTEN connection. */
  readonly listens: boolean;
}

/**
 * Waits for the database and migrates it, on a way that leads to PostgreSQL itself.
 *
 * @returns whether the way that calls take is that of a transaction pooler
 * @throws DatabaseUnusableError, DatabaseTooNewError
 */
export async function prepareDatabase(options: PrepareOptions): Promise<{ readonly pooled: boolean }> {
  const { databaseUrl, listenUrl, listens, log, signal } = options;
  const viaPooler = { url: databaseUrl, variable: 'DATABASE_URL', pooled: true } as const;
  try {
    const direct = await waitForDatabase(directWay(databaseUrl, listenUrl), options);
    // Before anything is changed on either.
    if (listenUrl !== undefined) assertSame(direct, await waitForDatabase(viaPooler, options));
  } catch (error) {
    if (!(error instanceof PoolerError) || listens || listenUrl !== undefined) throw error;
    await waitForDatabase(viaPooler, options);
    await assertMigrated(databaseUrl, signal);
    log.info(
      'DATABASE_URL leads to a pooler: changes are found by polling, and "baton migrate" has to be run elsewhere',
    );
    return { pooled: true };
  }
  const migrations = await migrate({ databaseUrl: listenUrl ?? databaseUrl, log, signal });
  if (migrations.length > 0) log.info({ migrations }, 'database migrated');
  return { pooled: listenUrl !== undefined };
}

function assertSame(direct: DatabaseIdentity, pooled: DatabaseIdentity): void {
  if (direct.cluster === pooled.cluster && direct.name === pooled.name) return;
  const which = direct.cluster === pooled.cluster ? '' : ' of another PostgreSQL';
  throw new DatabaseUnusableError(
    `BATON_LISTEN_URL leads to the database ${direct.name}, and DATABASE_URL to ${pooled.name}${which}: both have to lead ` +
      'to the same one.',
  );
}

/** The one that a session of Baton's own needs. */
export function directWay(databaseUrl: string, listenUrl: string | undefined): WayToDatabase {
  return listenUrl === undefined
    ? { url: databaseUrl, variable: 'DATABASE_URL', pooled: false }
    : { url: listenUrl, variable: 'BATON_LISTEN_URL', pooled: false };
}
