import { describe } from 'node:test';
import pg from 'pg';
import { pino } from 'pino';
import { LONG } from './long.js';
import { waitFor } from './wait.js';
import { createPool, type Pool } from '../../src/store/pool.js';

export const silent = pino({ level: 'silent' });

interface Cluster {
  readonly version: number;
  readonly url: string | undefined;
  readonly missing: string;
}

/** The clusters that `run.ts` has started, the newest first; a missing one has the reason. */
const CLUSTERS: readonly Cluster[] = [
  { version: 18, url: process.env['BATON_TEST_PG18_URL'], missing: 'run the tests with `npm test`' },
  {
    version: 15,
    url: process.env['BATON_TEST_PG15_URL'],
    missing: 'PostgreSQL 15 is not installed (apt-get install postgresql-15)',
  },
];

/** A database of its own for one test, made from the migrated template. */
export interface TestDatabase {
  readonly url: string;
  readonly version: number;
  /** For what the test does as a writer or an observer of its own. */
  readonly pool: Pool;
  /** A session outside of the pool, for transactions that are left open. */
  connect(): Promise<pg.Client>;
  /** Fails when a connection is left that was not closed, then drops the database. */
  drop(): Promise<void>;
}

let counter = 0;

async function admin<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** What is still connected after backends had the time to notice that their client is gone. */
async function remainingSessions(client: pg.Client, database: string): Promise<unknown[]> {
  let sessions: unknown[] = [];
  const gone = async (): Promise<boolean> => {
    const result = await client.query(
      `select application_name, left(query, 100) as query from pg_stat_activity
       where datname = $1 and backend_type = 'client backend'`,
      [database],
    );
    sessions = result.rows;
    return sessions.length === 0;
  };
  await waitFor(gone, 'sessions to end', 5000).catch(() => undefined);
  return sessions;
}

/** @param template 'baton_template' is migrated; 'template1' is empty */
export async function createDatabase(
  clusterUrl: string,
  version: number,
  template: 'baton_template' | 'template1' = 'baton_template',
): Promise<TestDatabase> {
  counter += 1;
  const name = `baton_test_${process.pid}_${counter}`;
  await admin(clusterUrl, (client) => client.query(`create database ${name} template ${template}`));
  const url = new URL(clusterUrl);
  url.pathname = `/${name}`;
  const databaseUrl = url.toString();
  const pool = createPool({ databaseUrl, connections: 20, log: silent });
  const clients = new Set<pg.Client>();
  return {
    url: databaseUrl,
    version,
    pool,
    async connect() {
      const client = new pg.Client({ connectionString: databaseUrl });
      client.on('error', () => undefined);
      await client.connect();
      clients.add(client);
      return client;
    },
    async drop() {
      for (const client of clients) await client.end().catch(() => undefined);
      await pool.close();
      const left = await admin(clusterUrl, async (client) => {
        const sessions = await remainingSessions(client, name);
        await client.query(`drop database ${name} with (force)`);
        return sessions;
      });
      if (left.length > 0) throw new Error(`connections were left open: ${JSON.stringify(left)}`);
    },
  };
}

/** Makes a database of its own for a test, as the migrations leave one if not told otherwise. */
export type Open = (template?: 'baton_template' | 'template1') => Promise<TestDatabase>;
type DatabaseTests = (open: Open) => void;

/**
 * Runs the same tests on every supported PostgreSQL. `open` gives a test a database of its own. A version that this
 * machine lacks is skipped with the reason, and a failure where everything is required (`BATON_REQUIRE_ALL=1`).
 */
export function describeOnEveryPostgres(title: string, body: DatabaseTests): void {
  describeOn(CLUSTERS, title, body);
}

function describeOn(clusters: readonly Cluster[], title: string, body: DatabaseTests): void {
  for (const { version, url, missing } of clusters) {
    const name = `${title} (PostgreSQL ${version})`;
    if (url !== undefined) {
      void describe(name, { concurrency: 1 }, () =>
        body((template) => createDatabase(url, version, template)),
      );
    } else if (process.env['BATON_REQUIRE_ALL'] === '1') {
      void describe(name, () => {
        throw new Error(missing);
      });
    } else {
      void describe(name, { skip: missing }, () => undefined);
    }
  }
}

/**
 * Runs tests of what is above the statements, where the version cannot matter, on the newest alone. What they ask of the
 * database is tested on every version in `test/db`.
 */
export function describeOnPostgres(title: string, body: DatabaseTests): void {
  describeOn(LONG ? CLUSTERS : CLUSTERS.slice(0, 1), title, body);
}

/** As `describeOnEveryPostgres`, on all of them at the same time: for tests that mostly wait. */
export function describeOnEveryPostgresAtOnce(title: string, body: DatabaseTests): void {
  void describe(title, { concurrency: true }, () => describeOnEveryPostgres(title, body));
}
