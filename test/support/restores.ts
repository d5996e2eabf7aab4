import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import {
  findPostgres15,
  makeDataDir,
  runDebianTool,
  serveDebianCluster,
  startDebianCluster,
} from './debian_cluster.js';
import { temporaryDir } from './process.js';

const run = promisify(execFile);

/** Quick, and able to be copied and followed. */
const SETTINGS = { fsync: 'off', max_connections: '60', wal_level: 'replica', hot_standby: 'on' };

/** PostgreSQL 15 with its programs; the reason where it is missing and may be. */
export const postgres15 = findPostgres15();
export const skipWithout15 =
  postgres15 === undefined && process.env['BATON_REQUIRE_ALL'] !== '1'
    ? 'PostgreSQL 15 and its pg_dump and pg_basebackup are not installed'
    : false;

function binDir(): string {
  if (postgres15 === undefined) throw new Error('PostgreSQL 15 is required');
  return postgres15;
}

export async function onDatabase(url: string, ...statements: string[]): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    let rows: Record<string, unknown>[] = [];
    for (const statement of statements) rows = (await client.query<Record<string, unknown>>(statement)).rows;
    return rows;
  } finally {
    await client.end();
  }
}

export function databaseAt(clusterUrl: string, name: string): string {
  const url = new URL(clusterUrl);
  url.pathname = `/${name}`;
  return url.toString();
}

/** What `pg_dump | psql` does, into a database that is there. */
export async function dumpAndRestore(from: string, to: string): Promise<void> {
  const { stdout } = await run(join(binDir(), 'pg_dump'), ['--schema=baton', from], {
    maxBuffer: 64 * 1024 * 1024,
  });
  const dir = await temporaryDir();
  try {
    const file = join(dir.path, 'dump.sql');
    await writeFile(file, stdout);
    await run(join(binDir(), 'psql'), ['-q', '-v', 'ON_ERROR_STOP=1', '-f', file, to]);
  } finally {
    await dir.remove();
  }
}

export interface OwnCluster {
  readonly url: string;
  readonly dir: string;
  stop(): Promise<void>;
  /** Serves the same data again, on another port. */
  restart(): Promise<OwnCluster>;
  remove(): Promise<void>;
}

async function own(
  dir: Awaited<ReturnType<typeof temporaryDir>>,
  start: 'init' | 'serve',
): Promise<OwnCluster> {
  const cluster =
    start === 'init'
      ? await startDebianCluster(binDir(), dir.path, SETTINGS)
      : await serveDebianCluster(binDir(), dir.path, SETTINGS);
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => (stopped ??= cluster.stop());
  return {
    url: cluster.url,
    dir: dir.path,
    stop,
    restart: async () => {
      await stop();
      return own(dir, 'serve');
    },
    remove: async () => {
      await stop();
      await dir.remove();
    },
  };
}

/** A cluster of PostgreSQL 15 for one test. */
export async function ownCluster(): Promise<OwnCluster> {
  return own(await temporaryDir(), 'init');
}

/** A standby of a cluster, made by pg_basebackup, that follows it. */
export async function standbyOf(primary: OwnCluster): Promise<OwnCluster> {
  const dir = await temporaryDir();
  const data = await makeDataDir(dir.path);
  await runDebianTool(binDir(), dir.path, 'pg_basebackup', [
    ...[
      '-D',
      data,
      '-d',
      primary.url,
      '-X',
      'stream',
      '--checkpoint=fast',
      '--write-recovery-conf',
      '--no-sync',
    ],
  ]);
  return own(dir, 'serve');
}
