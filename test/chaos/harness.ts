import { setMaxListeners } from 'node:events';
import { rmSync } from 'node:fs';
import pg from 'pg';
import { migrate } from '../../src/store/migrate.js';
import { extendLog } from '../../src/store/log_partitions.js';
import { createPool } from '../../src/store/pool.js';
import { freePorts } from '../support/free_ports.js';
import { silent } from '../support/database.js';
import { Prng } from '../support/log_prng.js';
import { temporaryDir } from '../support/process.js';
import { waitFor } from '../support/wait.js';
import { Cleanup } from '../support/chaos_cleanup.js';
import { injectFaults, type Schedule } from '../support/chaos_faults.js';
import { LANES, StreamFaults } from './faults.js';
import { Oracle } from '../support/chaos_oracle.js';
import { ChaosPostgres } from '../support/chaos_postgres.js';
import { buildReport, type ChaosReport, type Floors } from './report.js';
import { ChaosServer } from '../support/chaos_servers.js';
import { watcherSpecs } from './specs.js';
import { Texts, Watcher } from './watcher.js';
import { OpenTransactions, writeByCalls, writeBySql, type WriterCounts } from './writers.js';

export interface ChaosOptions extends Schedule {
  readonly binDir: string;
  readonly pauseMs: number;
  readonly restMs: number;
  readonly scale: number;
  readonly partitionRevisions: number;
  /** Goes on for it a while when the time is over. */
  readonly floors: Floors;
  readonly say: (line: string) => void;
}

const DATABASE = 'baton_chaos';
const ELSEWHERE = 'elsewhere';
const SERVERS = [{ listen: true }, { listen: true }, { listen: false }] as const;
const WRITERS_EACH = 8;
const HOT_RUNS = 20;
const SMALL_PARTITIONS = 12;
const CATCH_UP_MS = 60_000;

/** Runs the whole of it once. Throws when the run itself could not be made; what it found is in the report. */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  const cleanup = new Cleanup();
  try {
    return await chaos(options, cleanup);
  } finally {
    await cleanup.run();
  }
}

async function prepare(postgres: ChaosPostgres, partitionRevisions: number): Promise<void> {
  await postgres.createDatabases(DATABASE, ELSEWHERE);
  await migrate({ databaseUrl: postgres.url(DATABASE), log: silent });
  const pool = createPool({ databaseUrl: postgres.url(DATABASE), connections: 1, log: silent });
  try {
    // Small pieces of history in place of one of a million, so that some can be dropped.
    await pool.query('drop table baton.run_events_p0');
    await extendLog(pool, BigInt(partitionRevisions), SMALL_PARTITIONS);
  } finally {
    await pool.close();
  }
}

/** Seen from outside, a little less than is counted in the end. */
function hasEnough(floors: Floors, watchers: readonly Watcher[], { commits }: WriterCounts): boolean {
  const sum = (of: (watcher: Watcher) => number): number => watchers.reduce((all, one) => all + of(one), 0);
  const events = Math.max(...watchers.map(({ position }) => Number(position)));
  const compared = sum(({ segments }) => segments.reduce((all, one) => all + one.events.length, 0));
  return (
    commits >= floors.commits &&
    events >= floors.events &&
    compared >= floors.compared &&
    sum(({ resumes }) => resumes) >= floors.resumes &&
    sum(({ bookmarks }) => bookmarks) >= floors.bookmarks
  );
}

async function createHotRuns(postgres: ChaosPostgres): Promise<string[]> {
  const client = new pg.Client({ connectionString: postgres.url(DATABASE) });
  await client.connect();
  const { rows } = await client.query<{ id: string }>(
    'insert into baton.runs (repository) select $1 from generate_series(1, $2::int) returning id::text',
    ['hot', HOT_RUNS],
  );
  await client.end();
  return rows.map(({ id }) => id);
}

async function chaos(options: ChaosOptions, cleanup: Cleanup): Promise<ChaosReport> {
  const { seed, say, binDir } = options;
  const dir = await temporaryDir();
  cleanup.add(
    () => dir.remove(),
    () => rmSync(dir.path, { recursive: true, force: true }),
  );
  const [port = 0] = await freePorts(1);
  const postgres = await ChaosPostgres.start(binDir, dir.path, port);
  cleanup.add(
    () => postgres.stop(),
    () => postgres.killNow(),
  );
  await prepare(postgres, options.partitionRevisions);
  const oracle = await Oracle.start(binDir, postgres.url(DATABASE));
  cleanup.add(
    () => oracle.stop(),
    () => oracle.stop(),
  );
  const hotRuns = await createHotRuns(postgres);

  const servers: ChaosServer[] = [];
  for (const { listen } of SERVERS) {
    const server = await ChaosServer.create({ databasePort: port, database: DATABASE, listen });
    cleanup.add(
      () => server.close(),
      () => server.signal('SIGKILL'),
    );
    servers.push(server);
    await server.up();
  }
  say(`seed ${seed}: PostgreSQL on ${port}, ${servers.length} servers are up`);

  const stopWriting = new AbortController();
  const stopFaults = new AbortController();
  setMaxListeners(100, stopWriting.signal, stopFaults.signal);
  cleanup.add(() => stopWriting.abort());
  cleanup.add(() => stopFaults.abort());
  const faults = new StreamFaults({
    postgres,
    database: DATABASE,
    servers,
    random: new Prng(seed * 100 + 1),
    signal: stopFaults.signal,
    pauseMs: [options.pauseMs, options.pauseMs],
    scale: options.scale,
    partitionRevisions: options.partitionRevisions,
  });
  const open = new OpenTransactions(postgres.url(DATABASE), postgres.url(ELSEWHERE));
  cleanup.add(() => open.end());
  await open.start();

  const texts = new Texts();
  const watchers = watcherSpecs(hotRuns).map(
    (spec, index) =>
      new Watcher(spec, { servers, texts, isCalm: () => faults.isCalm() }, new Prng(seed * 100 + 20 + index)),
  );
  for (const watcher of watchers) watcher.start();
  cleanup.add(() => Promise.all(watchers.map((watcher) => watcher.stop())));

  const counts: WriterCounts = { calls: 0, failedCalls: 0, commits: 0, rollbacks: 0, brokenTransactions: 0 };
  const writing = Array.from({ length: 2 * WRITERS_EACH }, (_, index) => {
    const random = new Prng(seed * 100 + 60 + index);
    const context = { random, counts, signal: stopWriting.signal, restMs: options.restMs };
    return index < WRITERS_EACH
      ? writeByCalls(servers, context)
      : writeBySql(postgres.url(DATABASE), context);
  });

  await injectFaults(faults, LANES, options, stopFaults.signal, () =>
    hasEnough(options.floors, watchers, counts),
  );
  say(`${[...faults.counts.values()].reduce((sum, count) => sum + count, 0)} faults were made; healing`);
  await postgres.up();
  for (const server of servers) await server.up();
  stopWriting.abort();
  await Promise.all(writing);
  await open.end();
  const truth = await oracle.complete();
  say(`${truth.events.length} events are committed; waiting for ${watchers.length} streams`);
  // Leases still end meanwhile, so the log goes on: this is far enough.
  const { head } = truth;
  const late = (): Watcher[] => watchers.filter((watcher) => watcher.position < head);
  const problems: string[] = [];
  for (const watcher of watchers) watcher.hurry();
  await waitFor(() => late().length === 0, 'every stream to reach the head of the log', CATCH_UP_MS).catch(
    () => undefined,
  );
  for (const watcher of late())
    problems.push(`${watcher.spec.name} stands at ${watcher.position}, the head was ${head}`);
  await Promise.all(watchers.map((watcher) => watcher.stop()));
  await oracle.complete();
  const memory = await Promise.all(servers.map((server) => server.residentMiB()));
  return buildReport({
    options,
    truth,
    watchers,
    faults,
    counts,
    servers,
    memory,
    problems,
    opened: open.opened,
  });
}
