/**
 * Runs the tests: starts the databases, hands their addresses to `node --test`, and cleans up. Arguments are parts of
 * file names: `npm test -- watch` runs the files that have `watch` in their name.
 */
import { spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, rm } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { pino } from 'pino';
import { startEmbeddedPostgres } from '../src/store/embedded/embedded-postgres.js';
import { migrate } from '../src/store/migrate.js';
import { findPostgres15, startDebianCluster, type TestCluster } from './support/debian_cluster.js';

/** Durability of the test clusters is not what is tested, but for the tests that start their own. */
const SETTINGS = {
  fsync: 'off',
  full_page_writes: 'off',
  max_connections: '400',
  wal_level: 'logical',
  max_replication_slots: '20',
  max_wal_senders: '20',
  shared_buffers: '128MB',
  max_prepared_transactions: '10',
};

const log = pino(
  { level: process.env['BATON_TEST_LOG_LEVEL'] ?? 'warn' },
  pino.destination({ fd: 2, sync: true }),
);

async function makeTemplate(clusterUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: clusterUrl });
  await client.connect();
  await client.query('create database baton_template');
  await client.end();
  const url = new URL(clusterUrl);
  url.pathname = '/baton_template';
  await migrate({ databaseUrl: url.toString(), log });
}

async function testFiles(wanted: readonly string[]): Promise<string[]> {
  const dir = fileURLToPath(new URL('.', import.meta.url));
  const files = (await readdir(dir)).filter((file) => file.endsWith('.test.js')).sort();
  const chosen = files.filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)));
  if (chosen.length === 0)
    throw new Error(`no test file has ${wanted.join(' or ')} in its name; there are: ${files.join(', ')}`);
  return chosen.map((file) => join(dir, file));
}

function runTests(files: readonly string[], env: NodeJS.ProcessEnv): Promise<number> {
  const concurrency = Math.max(2, availableParallelism());
  const args = [
    '--enable-source-maps',
    '--test',
    `--test-concurrency=${concurrency}`,
    '--test-reporter=spec',
    ...files,
  ];
  // In a process group of its own, so that Ctrl-C reaches it through us and the clean-up still happens.
  const child = spawn(process.execPath, args, {
    stdio: 'inherit',
    env: { ...process.env, ...env },
    detached: true,
  });
  const forward = (signal: NodeJS.Signals): void => {
    if (child.pid !== undefined) process.kill(-child.pid, signal);
  };
  process.on('SIGINT', forward).on('SIGTERM', forward);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code) => resolve(code ?? 1));
  });
}

const files = await testFiles(process.argv.slice(2));
const dir = await mkdtemp(join(tmpdir(), 'baton-test-'));
const clusters: TestCluster[] = [];
try {
  // PostgreSQL may run as another user, which has to get in.
  await chmod(dir, 0o755);
  const postgres18 = await startEmbeddedPostgres({
    dataDir: join(dir, 'pg18'),
    systemDir: join(dir, 'system'),
    log,
    settings: SETTINGS,
  });
  clusters.push(postgres18);
  await makeTemplate(postgres18.url);
  const env: NodeJS.ProcessEnv = { BATON_TEST_PG18_URL: postgres18.url };
  const binDir = findPostgres15();
  if (binDir !== undefined) {
    const home = join(dir, 'pg15');
    await mkdir(home);
    const postgres15 = await startDebianCluster(binDir, home, SETTINGS);
    clusters.push(postgres15);
    await makeTemplate(postgres15.url);
    env['BATON_TEST_PG15_URL'] = postgres15.url;
  }
  process.exitCode = await runTests(files, env);
} finally {
  for (const cluster of clusters) await cluster.stop();
  await rm(dir, { recursive: true, force: true });
}
