import { readdir } from 'node:fs/promises';
import { basename, extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import pg from 'pg';
import type { Logger } from '../base/log.js';

const MIGRATIONS_SCHEMA = 'baton';
const MIGRATIONS_TABLE = 'migrations';
/** Advisory lock of migrations, in the same key space as the log's. */
const MIGRATION_LOCK = 477355191;

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
  /** A session of its own is opened here; not a transaction pooler, because a session lock is taken. */
  readonly databaseUrl: string;
  readonly direction?: 'up' | 'down';
  /** How many migrations to apply: all for up and one for down when absent. */
  readonly count?: number;
  readonly log: Logger;
  /** Another folder of migrations, for tests. */
  readonly dir?: string;
}

/**
 * Brings the database to this program's schema, or takes migrations back. Each migration is one transaction. Servers
 * that start together wait for each other, so one of them migrates and the others find it done.
 *
 * @returns the names of the migrations that were applied or taken back
 * @throws DatabaseTooNewError where the database has a migration that this program lacks; nothing is changed then
 */
export async function migrate(options: MigrateOptions): Promise<string[]> {
  const dir = options.dir ?? migrationsDir();
  const direction = options.direction ?? 'up';
  const client = new pg.Client({
    connectionString: options.databaseUrl,
    application_name: 'baton migrate',
    keepAlive: true,
  });
  client.on('error', (error) => options.log.warn({ err: error }, 'connection lost while migrating'));
  await client.connect();
  try {
    await client.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
    const known = await knownMigrations(dir);
    const applied = await appliedMigrations(client);
    refuseNewer(applied, known);
    if (direction === 'up' && applied.length === known.length) return [];
    const done = await runner({
      dbClient: client,
      dir,
      direction,
      ...(options.count === undefined ? {} : { count: options.count }),
      migrationsSchema: MIGRATIONS_SCHEMA,
      createMigrationsSchema: true,
      migrationsTable: MIGRATIONS_TABLE,
      singleTransaction: false,
      // The lock above is held already, so that the check for a newer database is under it too.
      noLock: true,
      logger: {
        info: (text: string) => options.log.debug(text),
        warn: (text: string) => options.log.warn(text),
        error: (text: string) => options.log.error(text),
      },
    });
    return done.map((migration) => migration.name);
  } finally {
    // Ends the session and the lock with it.
    await client.end();
  }
}
