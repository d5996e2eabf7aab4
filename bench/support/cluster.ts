import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { createLogger } from '../../src/base/log.js';
import { startEmbeddedPostgres } from '../../src/store/embedded/embedded-postgres.js';

/** What is worth knowing about a PostgreSQL whose speed is compared. */
const SETTINGS_SHOWN = [
  ...['server_version', 'fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'wal_sync_method'],
  ...['shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'autovacuum', 'max_connections', 'jit'],
];

/** A durable PostgreSQL 18 with its own defaults, in a temporary folder. Every system gets a database of its own. */
export interface Cluster {
  readonly settings: Readonly<Record<string, string>>;
  /** @returns the URL of an empty database */
  createDatabase(): Promise<string>;
  dropDatabase(url: string): Promise<void>;
  /** Brings a filled database to where autovacuum and a checkpoint would have brought it in time. */
  settle(url: string): Promise<void>;
  stop(): Promise<void>;
}

/** One statement, or several without parameters, on a connection of its own. */
export async function execute<Row extends pg.QueryResultRow>(
  connectionString: string,
  sql: string,
): Promise<Row[]> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    return (await client.query<Row>(sql)).rows;
  } finally {
    await client.end();
  }
}

async function readSettings(url: string): Promise<Record<string, string>> {
  const rows = await execute<{ name: string; value: string }>(
    url,
    `select name, current_setting(name) as value from pg_settings
     where name in (${SETTINGS_SHOWN.map((name) => `'${name}'`).join(', ')}) order by name`,
  );
  return Object.fromEntries(rows.map(({ name, value }) => [name, value]));
}

/** @param settings beyond the defaults, as few as possible */
export async function startCluster(settings: Readonly<Record<string, string>> = {}): Promise<Cluster> {
  const dir = await mkdtemp(join(tmpdir(), 'baton-bench-'));
  const remove = (): Promise<void> => rm(dir, { recursive: true, force: true });
  try {
    // PostgreSQL may run as another user, which has to get in.
    await chmod(dir, 0o755);
    const postgres = await startEmbeddedPostgres({
      dataDir: dir,
      systemDir: join(dir, 'system'),
      log: createLogger('error'),
      settings,
    });
    let databases = 0;
    return {
      settings: await readSettings(postgres.url),
      async createDatabase() {
        databases += 1;
        const url = new URL(postgres.url);
        url.pathname = `/bench_${databases}`;
        await execute(postgres.url, `create database bench_${databases}`);
        return url.toString();
      },
      async dropDatabase(url) {
        await execute(postgres.url, `drop database ${new URL(url).pathname.slice(1)} with (force)`);
      },
      async settle(url) {
        await execute(url, 'vacuum (analyze)');
        await execute(url, 'checkpoint');
      },
      async stop() {
        await postgres.stop();
        await remove();
      },
    };
  } catch (error) {
    await remove();
    throw error;
  }
}
