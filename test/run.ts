/**
 * Runs the tests: starts the databases, hands their addresses to `node --test`, and cleans up. Arguments are parts of
 * the names of files with their folders: `npm test -- watch` runs those that have `watch` in their name, `npm test --
 * db/` those of the folder `db`. The tests in `unit` need no database, and none is started for them alone.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmod, mkdir, mkdtemp, readFile, readdir, readlink, rm, statfs } from 'node:fs/promises';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { pino } from 'pino';
import { startEmbeddedPostgres } from '../src/store/embedded/embedded-postgres.js';
import { migrate } from '../src/store/migrate.js';
import { findPostgres15, startDebianCluster, type TestCluster } from './support/debian_cluster.js';
import { chooseSeed, commandFor } from './support/seed.js';
import { waitFor } from './support/wait.js';

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

/** In the order in which they run: what takes longest first, so that one core does not end up with it alone. */
const FOLDERS = ['slow', 'server', 'db', 'unit'] as const;

async function testFiles(wanted: readonly string[]): Promise<string[]> {
  const dir = fileURLToPath(new URL('.', import.meta.url));
  const inFolders = await Promise.all(
    FOLDERS.map(async (folder) =>
      (await readdir(join(dir, folder))).sort().map((name) => `${folder}/${name}`),
    ),
  );
  const files = inFolders.flat().filter((file) => file.endsWith('.test.js'));
  const chosen = files.filter((file) => wanted.length === 0 || wanted.some((part) => file.includes(part)));
  if (chosen.length === 0)
    throw new Error(`no test file has ${wanted.join(' or ')} in its name; there are: ${files.join(', ')}`);
  return chosen.map((file) => join(dir, file));
}

/** Writes down the files with failures. */
const FAILED_FILES = new URL('support/failed_files.js', import.meta.url).href;

/** @param failed the file that gets the names of those with failures */
function runTests(files: readonly string[], env: NodeJS.ProcessEnv, failed: string): Promise<number> {
  // One more than there are cores: some tests mostly wait.
  const concurrency = Math.max(2, availableParallelism()) + 1;
  const args = [
    '--enable-source-maps',
    '--test',
    `--test-concurrency=${concurrency}`,
    ...['--test-reporter=spec', '--test-reporter-destination=stdout'],
    ...[`--test-reporter=${FAILED_FILES}`, `--test-reporter-destination=${failed}`],
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

/** What was started gets this long to be gone: PostgreSQL ends a moment after the process that started it. */
const LEFTOVERS_TIMEOUT_MS = 20_000;
/** In memory where there is plenty: Linux makes this a folder without a disk. */
const MEMORY_DIR = '/dev/shm';
const MEMORY_BYTES = 4 * 2 ** 30;
const TMPFS = 0x0102_1994;

/**
 * Where the databases and all temporary folders go. Each test makes and drops a database of some three hundred files, and
 * on a disk the search for free inodes alone was a seventh of the CPU of all tests. Programs are built there too, so it is
 * no place for them where Linux runs none from it.
 */
async function parentFolder(): Promise<string> {
  const [mounts, space] = await Promise.all([
    readFile('/proc/mounts', 'utf8').catch(() => ''),
    statfs(MEMORY_DIR).catch(() => undefined),
  ]);
  const [, , , options = ''] = (
    mounts.split('\n').findLast((line) => line.split(' ')[1] === MEMORY_DIR) ?? ''
  ).split(' ');
  const fits =
    space?.type === TMPFS &&
    space.bavail * space.bsize >= MEMORY_BYTES &&
    !options.split(',').includes('noexec');
  return fits ? MEMORY_DIR : tmpdir();
}

/** Every process of this run inherits it; its name does not begin with BATON_, which tests take out of environments. */
const MARKER = 'TEST_RUN_OF_BATON';

/** Processes of this run by their environment, or, as PostgreSQL gets a fresh one, by the folder they work in or name. */
async function leftProcesses(marker: string, dir: string): Promise<string[]> {
  const pids = (await readdir('/proc').catch(() => [])).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(
    pids.map(async (pid) => {
      const read = (name: string): Promise<string> =>
        readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => '');
      const [environment, command, cwd] = await Promise.all([
        read('environ'),
        read('cmdline'),
        readlink(`/proc/${pid}/cwd`).catch(() => ''),
      ]);
      const isOurs =
        environment.split('\0').includes(marker) || command.includes(dir) || `${cwd}/`.startsWith(`${dir}/`);
      return isOurs && Number(pid) !== process.pid
        ? [`process ${pid}: ${command.replaceAll('\0', ' ')}`]
        : [];
    }),
  );
  return found.flat();
}

/** What the tests should have ended or removed, one line each; nothing after a clean run. */
async function leftovers(marker: string, dir: string, temporary: string): Promise<string[]> {
  let processes: string[] = [];
  await waitFor(
    async () => (processes = await leftProcesses(marker, dir)).length === 0,
    'the processes of the tests to end',
    LEFTOVERS_TIMEOUT_MS,
  ).catch(() => undefined);
  const folders = (await readdir(temporary)).filter((name) => name.startsWith('baton-'));
  return [...processes, ...folders.map((name) => `folder ${join(temporary, name)}`)];
}

const clusters: TestCluster[] = [];

/** PostgreSQL 18, and 15 where it is installed, each with the migrated template; `clusters` has what was started. */
async function startClusters(dir: string): Promise<NodeJS.ProcessEnv> {
  const postgres18 = await startEmbeddedPostgres({
    dataDir: join(dir, 'pg18'),
    systemDir: join(dir, 'system'),
    log,
    settings: SETTINGS,
  });
  clusters.push(postgres18);
  await makeTemplate(postgres18.url);
  const binDir = findPostgres15();
  if (binDir === undefined) return { BATON_TEST_PG18_URL: postgres18.url };
  const home = join(dir, 'pg15');
  await mkdir(home);
  const postgres15 = await startDebianCluster(binDir, home, SETTINGS);
  clusters.push(postgres15);
  await makeTemplate(postgres15.url);
  return { BATON_TEST_PG18_URL: postgres18.url, BATON_TEST_PG15_URL: postgres15.url };
}

const wanted = process.argv.slice(2);
const seed = chooseSeed(process.env['BATON_TEST_SEED']);
const files = await testFiles(wanted);
const needsPostgres = files.some((file) => basename(dirname(file)) !== 'unit');
const dir = await mkdtemp(join(await parentFolder(), 'baton-test-'));
if (process.env['BATON_TEST_SEED'] !== undefined) console.log(`BATON_TEST_SEED=${seed}`);
const marker = randomUUID();
process.env[MARKER] = marker;
try {
  // PostgreSQL may run as another user, which has to get in.
  await chmod(dir, 0o755);
  // The tests' own temporary folder, so that what they leave there is seen, and other runs' folders are not.
  const temporary = join(dir, 'tmp');
  await mkdir(temporary);
  await chmod(temporary, 0o1777);
  const env: NodeJS.ProcessEnv = {
    TMPDIR: temporary,
    BATON_TEST_SEED: String(seed),
    // Times are judged with this slack: other tests run at the same time, and so may other programs.
    BATON_TEST_SLACK: process.env['BATON_TEST_SLACK'] ?? '10',
    ...(needsPostgres ? await startClusters(dir) : {}),
  };
  const failed = join(dir, 'failed');
  process.exitCode = await runTests(files, env, failed);
  for (let cluster = clusters.pop(); cluster !== undefined; cluster = clusters.pop()) await cluster.stop();
  const left = await leftovers(`${MARKER}=${marker}`, dir, temporary);
  if (left.length > 0) {
    process.stderr.write(`the tests left behind:\n${left.map((line) => `  ${line}\n`).join('')}`);
    process.exitCode = 1;
  }
  const names = (await readFile(failed, 'utf8')).split('\n').filter((name) => name !== '');
  for (const name of new Set(names)) process.stderr.write(`failed, again alone: ${commandFor(name, seed)}\n`);
} finally {
  for (const cluster of clusters) await cluster.stop();
  await rm(dir, { recursive: true, force: true });
}
