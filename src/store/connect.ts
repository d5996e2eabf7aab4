import pg from 'pg';
import { backoffMs } from '../base/backoff.js';
import { Bell } from '../base/bell.js';
import type { Clock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import { toStoreError } from './store_error.js';
import { BatonError } from '../base/errors.js';

/** PostgreSQL 15, as `server_version_num` counts. */
const OLDEST_VERSION = 150_000;
const RETRY = { initialMs: 100, maxMs: 2000 };
const WAIT_MS = 30_000;

/** The database cannot be used by this program, now or at all. */
export class DatabaseUnusableError extends Error {
  override readonly name = 'DatabaseUnusableError';
}

async function serverVersion(databaseUrl: string): Promise<number> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'baton',
    connectionTimeoutMillis: 5000,
  });
  client.on('error', () => undefined);
  try {
    await client.connect();
    const result = await client.query<{ version: string }>(
      `select current_setting('server_version_num') as version`,
    );
    return Number(result.rows[0]?.version);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/**
 * Waits until the database takes connections, up to half a minute, so that Baton and its database may be started
 * together, and makes sure that it is new enough.
 *
 * @throws DatabaseUnusableError
 */
export async function waitForDatabase(
  databaseUrl: string,
  clock: Clock,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  const bell = new Bell(clock);
  const deadline = clock.now() + WAIT_MS;
  for (let attempt = 1; ; attempt += 1) {
    signal.throwIfAborted();
    try {
      const version = await serverVersion(databaseUrl);
      if (version >= OLDEST_VERSION) return;
      throw new DatabaseUnusableError(
        `the database is PostgreSQL ${Math.floor(version / 10_000)}; Baton needs 15 or newer`,
      );
    } catch (error) {
      const away = toStoreError(error) instanceof BatonError;
      const reason = error instanceof Error ? error.message || error.name : String(error);
      if (error instanceof DatabaseUnusableError) throw error;
      if (!away || clock.now() > deadline) {
        throw new DatabaseUnusableError(`the database cannot be used: ${reason}`, { cause: error });
      }
      log.warn({ reason, attempt }, 'the database does not answer yet; trying again');
      await bell.wait(backoffMs(RETRY, attempt));
    }
  }
}
