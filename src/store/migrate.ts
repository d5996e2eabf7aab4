import { readdir } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import pg from 'pg';
import type { Logger } from '../base/log.js';
import { DatabaseUnusableError } from './session_check.js';
import { describeSessions, sessionText } from './describe_sessions.js';
import { lockMigrations, type LockTimes } from './migration_lock.js';
import { inSession } from './one_session.js';
import { sessionConfig } from './session.js';
import { processIdOf } from './watchdog.js';

const MIGRATIONS_SCHEMA = 'baton';
const MIGRATIONS_TABLE = 'migrations';
const INSUFFICIENT_PRIVILEGE = '42501';
const CONNECTING = { connectionTimeoutMillis: 5000 };
/** Nobody should wait for long for what is only asked on the way. */
const ASKING = { connectionTimeoutMillis: 1000, query_timeout: 1000 };
/** How often a migration under way is asked about. */
const LOOK_MS = 10_000;

/** The database was migrated by a newer Baton than this one. */
export class DatabaseTooNewError extends Error {
  override readonly name = 'DatabaseTooNewError';
}

/** Where the `.sql` files are: at the top of the package, beside the compiled `dist`. */
export function migrationsDir(): string {
  return fileURLToPath(new URL('../../../migrations', import.meta.url));
}

async function knownMigrations(dir: string): Promise<string[]> {
  const files = await readdir(dir);
  return files.filter((file) => extname(file) === '.sql').map((file) => basename(file, '.sql'));
}

async function appliedMigrations(client: pg.Client): Promise<string[]> {
  const table = `${MIGRATIONS_SCHEMA}.${MIGRATIONS_TABLE}`;
  const exists = await client.query<{ oid: string | null }>('select to_regclass($1)::text as oid', [table]);
  if (exists.rows[0]?.oid == null) return [];
  const result = await client.query<{ name: string }>(`select name from ${table} order by id`);
  return result.rows.map((row) => row.name);
}

function refuseNewer(applied: readonly string[], known: readonly string[]): void {
  const unknown = applied.filter((name) => !known.includes(name));
  if (unknown.length === 0) return;
  throw new DatabaseTooNewError(
    `the database is newer than this Baton: it has migrations that this program does not know (${unknown.join(', ')}). ` +
      'Start a Baton at least as new as the one that migrated it.',
  );
}

export interface MigrateOptions {
  /** A session of its own is opened here; not a transaction pooler, which would keep the lock when this session ends. */
  readonly databaseUrl: string;
  readonly direction?: 'up' | 'down';
  /** How many migrations to apply: all for up and one for down when absent. */
  readonly count?: number;
  readonly log: Logger;
  /** Ends a migration under way: what it has not committed is undone. */
  readonly signal?: AbortSignal;
  /** Another folder of migrations, for tests. */
  readonly dir?: string;
  readonly lockTimes?: LockTimes;
}

/**
 * Brings the database to this program's schema, or takes migrations back. Each migration is one transaction. Servers
 * that start together wait for each other, so one of them migrates and the others find it done.
 *
 * @returns the names of the migrations that were applied or taken back
 * @throws DatabaseTooNewError where the database has a migration that this program lacks; nothing is changed then.
 *   DatabaseUnusableError where the role lacks a right
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const { databaseUrl, log, lockTimes: times } = options;
  const signal = options.signal ?? new AbortController().signal;
  const config = sessionConfig({ databaseUrl, name: 'baton migrate' });
  return inSession({ ...config, ...CONNECTING, keepAlive: true }, signal, async (client) => {
    await lockMigrations(client, { log, signal, times });
    const end = watchOver(client, config, log, signal);
    try {
      return await run(client, options).catch(explainRights);
    } finally {
      await end();
    }
  });
}

function explainRights(error: unknown): never {
  if (!(error instanceof pg.DatabaseError) || error.code !== INSUFFICIENT_PRIVILEGE) throw error;
  throw new DatabaseUnusableError(
    `the schema cannot be made or changed: ${error.message}. The role needs the rights to connect and to create on the ` +
      'database ("grant connect, create on database … to …"), and the schema baton has to be its own or that of a role it is in.',
    { cause: error },
  );
}

/** Under the lock. */
async function run(client: pg.Client, { log, count, ...options }: MigrateOptions): Promise<string[]> {
  const dir = options.dir ?? migrationsDir();
  const direction = options.direction ?? 'up';
  const known = await knownMigrations(dir);
  const applied = await appliedMigrations(client);
  refuseNewer(applied, known);
  if (direction === 'up' && applied.length === known.length) return [];
  const done = await runner({
    dbClient: client,
    dir,
    direction,
    ...(count === undefined ? {} : { count }),
    migrationsSchema: MIGRATIONS_SCHEMA,
    createMigrationsSchema: true,
    migrationsTable: MIGRATIONS_TABLE,
    singleTransaction: false,
    // The lock is held already, so that the check for a newer database is under it too.
    noLock: true,
    logger: {
      info: (text: string) => log.debug(text),
      warn: (text: string) => log.warn(text),
      error: (text: string) => log.error(text),
    },
  });
  return done.map((migration) => migration.name);
}

/**
 * For a server that may not migrate, since all that it has is a transaction pooler.
 *
 * @throws DatabaseTooNewError, or DatabaseUnusableError where a migration is missing
 */
export async function assertMigrated(databaseUrl: string, signal: AbortSignal): Promise<void> {
  const config = sessionConfig({ databaseUrl, name: 'baton migrate', pooled: true });
  await inSession({ ...config, ...CONNECTING }, signal, async (client) => {
    const known = await knownMigrations(migrationsDir());
    const applied = await appliedMigrations(client);
    refuseNewer(applied, known);
    const missing = known.filter((name) => !applied.includes(name)).sort();
    if (missing.length === 0) return;
    throw new DatabaseUnusableError(
      `the database lacks the migrations ${missing.join(', ')}, and migrations are not made through a transaction ` +
        'pooler: run "baton migrate" with a --database-url that leads to PostgreSQL itself, or set BATON_LISTEN_URL to it.',
    );
  });
}

/**
 * While a migration runs: names whoever holds it up, and ends its backend when the signal is aborted, which would else go
 * on with its statement, and hold the lock, until it has an answer to give.
 *
 * @returns ends it
 */
function watchOver(
  client: pg.Client,
  config: pg.ClientConfig,
  log: Logger,
  signal: AbortSignal,
): () => Promise<void> {
  const processId = processIdOf(client);
  const ask = (work: (other: pg.Client) => Promise<unknown>): Promise<unknown> =>
    inSession({ ...config, ...ASKING }, new AbortController().signal, work).catch((error: unknown) =>
      log.warn({ err: error }, 'a migration under way cannot be asked about'),
    );
  const look = (): Promise<unknown> =>
    ask(async (other) => {
      const blocking = 'select pg_blocking_pids($1::int) as pids';
      const { rows } = await other.query<{ pids: number[] }>(blocking, [processId]);
      const sessions = await describeSessions(other, rows[0]?.pids ?? []);
      if (sessions.length === 0) return;
      log.warn({ holders: sessions }, `the migration waits for ${sessions.map(sessionText).join(', ')}`);
    });
  let asking: Promise<unknown> = Promise.resolve();
  const timer = setInterval(() => {
    asking = look();
  }, LOOK_MS);
  const onAbort = (): void => {
    asking = ask((other) => other.query('select pg_terminate_backend($1::int)', [processId]));
  };
  signal.addEventListener('abort', onAbort);
  return async () => {
    clearInterval(timer);
    signal.removeEventListener('abort', onAbort);
    await asking;
  };
}
