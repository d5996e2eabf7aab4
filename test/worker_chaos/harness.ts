import { setMaxListeners } from 'node:events';
import { rmSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { migrate } from '../../src/store/migrate.js';
import { Cleanup } from '../support/chaos_cleanup.js';
import {
  Faults,
  injectFaults,
  NETWORK_FAULTS,
  PROCESS_FAULTS,
  type Schedule,
} from '../support/chaos_faults.js';
import { Oracle } from '../support/chaos_oracle.js';
import { freePorts } from '../support/free_ports.js';
import { ChaosPostgres } from '../support/chaos_postgres.js';
import { ChaosServer } from '../support/chaos_servers.js';
import { connect } from '../support/chaos_sql.js';
import { Truth } from '../support/chaos_truth.js';
import { silent } from '../support/database.js';
import { Prng } from '../support/log_prng.js';
import { temporaryDir } from '../support/process.js';
import { waitFor, within } from '../support/wait.js';
import { Books } from './books.js';
import { Caller, nowMs } from './caller.js';
import { createByCalls, createBySql, operate, resumeAll } from './clients.js';
import { LeaseWatch, readLog } from './log.js';
import { PUT_PIPELINES, putRequest } from './pipelines.js';
import { buildReport, missingFrom, type Floors, type WorkerReport } from './report.js';
import { Worker } from './worker.js';

export interface WorkerChaosOptions extends Schedule {
  readonly binDir: string;
  /** How long a server is paused: from and up to. */
  readonly pauseMs: readonly [number, number];
  /** How long faults of the network last, against their usual time. */
  readonly scale: number;
  readonly workers: number;
  /** Milliseconds between two creations of one client, at most. */
  readonly restMs: number;
  /** Goes on for it a while when the time is over. */
  readonly floors: Floors;
  readonly say: (line: string) => void;
}

export const LANES: readonly (readonly string[])[] = [PROCESS_FAULTS, NETWORK_FAULTS];
export const ALL_KINDS: readonly string[] = LANES.flat();

const DATABASE = 'baton_workers';
const SERVERS = [{ listen: true }, { listen: true }, { listen: false }] as const;
const CREATORS = 2;
const SQL_CREATORS = 1;
const OPERATORS = 4;
/** How often the answers to creators and operators are kept back; they ask less often than workers do. */
const CLIENT_SWALLOW_SHARE = 0.2;
/**
 * How long no run may end, after all is healed, while some are open: backoffs and leases take that long. How long all of
 * them take depends on how many a busy machine has left over, above all for a key that has one run at a time.
 */
const DRAIN_STALL_MS = 60_000;
const DRAIN_MS = 900_000;
const GIVE_UP_MS = 60_000;

/** Runs the whole of it once. Throws when the run itself could not be made; what it found is in the report. */
export async function runWorkerChaos(options: WorkerChaosOptions): Promise<WorkerReport> {
  const cleanup = new Cleanup();
  try {
    return await chaos(options, cleanup);
  } finally {
    await cleanup.run();
  }
}

interface Machines {
  readonly postgres: ChaosPostgres;
  readonly servers: readonly ChaosServer[];
  readonly oracle: Oracle;
  readonly leases: LeaseWatch;
  readonly databaseUrl: string;
}

async function start({ binDir }: WorkerChaosOptions, cleanup: Cleanup): Promise<Machines> {
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
  await postgres.createDatabases(DATABASE);
  const databaseUrl = postgres.url(DATABASE);
  await migrate({ databaseUrl, log: silent });
  const leases = new LeaseWatch();
  const oracle = await Oracle.start(binDir, databaseUrl, new Truth((row) => leases.take(row)));
  cleanup.add(
    () => oracle.stop(),
    () => oracle.stop(),
  );
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
  return { postgres, servers, oracle, leases, databaseUrl };
}

async function chaos(options: WorkerChaosOptions, cleanup: Cleanup): Promise<WorkerReport> {
  const { seed, say, restMs } = options;
  const machines = await start(options, cleanup);
  const { postgres, servers, oracle, databaseUrl } = machines;
  say(`seed ${seed}: PostgreSQL on ${postgres.port}, ${servers.length} servers are up`);
  const [stopClients, stopFaults, stopWorkers, giveUp] = Array.from(
    { length: 4 },
    () => new AbortController(),
  );
  const controllers = [stopClients, stopFaults, stopWorkers, giveUp].filter((one) => one !== undefined);
  for (const controller of controllers) cleanup.add(() => controller.abort());
  setMaxListeners(200, ...controllers.map(({ signal }) => signal));
  const signalOf = (controller: AbortController | undefined): AbortSignal =>
    controller?.signal ?? AbortSignal.abort();

  const books = new Books();
  const callers: Caller[] = [];
  const caller = async (swallowShare?: number): Promise<Caller> => {
    const random = new Prng(seed * 1000 + 500 + callers.length);
    const one = await Caller.start(servers, books, random, signalOf(giveUp));
    cleanup.add(() => one.close());
    callers.push(one);
    if (swallowShare !== undefined) one.swallowShare = swallowShare;
    return one;
  };
  await putPipelines(await caller(0));
  let calm = false;
  const workers: Promise<void>[] = [];
  for (let index = 0; index < options.workers; index += 1) {
    const random = new Prng(seed * 1000 + index);
    const context = { name: `w${index}`, books, random, signal: signalOf(stopWorkers), isCalm: () => calm };
    workers.push(new Worker({ ...context, caller: await caller() }).run());
  }
  const clients: Promise<void>[] = [];
  const client = (name: string) => {
    const random = new Prng(seed * 1000 + 300 + clients.length);
    return { name, books, random, signal: signalOf(stopClients), restMs };
  };
  for (let index = 0; index < CREATORS; index += 1)
    clients.push(createByCalls(await caller(CLIENT_SWALLOW_SHARE), client(`c${index}`)));
  for (let index = 0; index < SQL_CREATORS; index += 1)
    clients.push(createBySql(databaseUrl, client(`s${index}`)));
  for (let index = 0; index < OPERATORS; index += 1)
    clients.push(operate(await caller(CLIENT_SWALLOW_SHARE), client(`o${index}`)));
  const everybody = Promise.all([...workers, ...clients]);
  // Told of at once, not when somebody waits for it at the end.
  const broken = new Promise<never>((_, reject) => void everybody.catch(reject));
  broken.catch(() => undefined);

  const faults = new Faults({
    postgres,
    database: DATABASE,
    servers,
    random: new Prng(seed * 1000 + 999),
    signal: signalOf(stopFaults),
    pauseMs: options.pauseMs,
    scale: options.scale,
  });
  await Promise.race([
    injectFaults(
      faults,
      LANES,
      options,
      signalOf(stopFaults),
      () => missingFrom(books, options.floors).length === 0,
    ),
    broken,
  ]);
  say(`${[...faults.counts.values()].reduce((sum, count) => sum + count, 0)} faults were made; healing`);
  await postgres.up();
  for (const server of servers) await server.up();
  stopClients?.abort();
  calm = true;
  for (const one of callers) one.swallowShare = 0;
  await within(Promise.all(clients), 'the clients to have their last answers', GIVE_UP_MS);
  await resumeAll(await caller(0));
  const problems: string[] = [];
  await drain(databaseUrl).catch((error: unknown) => problems.push(String(error)));
  const drainedAtMs = nowMs();
  stopWorkers?.abort();
  await Promise.race([Promise.all(workers), pause(GIVE_UP_MS).then(() => giveUp?.abort())]);
  await everybody;
  // What was still on its way through a server, a creation that nobody waits for among it, is done or never will be.
  for (const server of servers.map((one) => ({ one, stopped: one.terminate() }))) {
    if (!(await server.stopped))
      problems.push(`a server did not stop in time when all was well: ${server.one.logged.slice(-8000)}`);
  }
  const truth = await oracle.complete();
  const log = await readLog(databaseUrl, truth);
  say(`${log.length} events are committed; comparing`);
  return buildReport({
    options,
    log,
    drainedAtMs,
    truth,
    leases: machines.leases,
    books,
    faults,
    generations: await generations(databaseUrl),
    lostBytes: callers.reduce((sum, one) => sum + one.lostBytes, 0),
    problems,
  });
}

async function putPipelines(caller: Caller): Promise<void> {
  for (const spec of PUT_PIPELINES) {
    const request = putRequest(spec, 'first');
    const answer = await caller.ask(
      'PutPipeline',
      [],
      ({ pipelines }, options) => pipelines.putPipeline(request, options),
      {
        times: 1,
      },
    );
    if (answer === undefined) throw new Error(`pipeline ${spec.name} could not be put`);
  }
}

interface Open {
  readonly runs: number;
  readonly text: string | null;
}

/** Waits until every run has ended. Rejects when none does for too long. */
async function drain(databaseUrl: string): Promise<void> {
  const client = await connect(databaseUrl);
  let open: Open = { runs: Number.POSITIVE_INFINITY, text: '' };
  let endedAtMs = performance.now();
  const look = async (): Promise<boolean> => {
    const { rows } = await client.query<Open>(
      `select coalesce(sum(runs), 0)::int as runs, string_agg(format('%s %s in %s', runs, status, pipeline), ', ') as text
       from (
         select pipeline, status, count(*) as runs from baton.runs where state in ('PENDING', 'ACTIVE') group by 1, 2
       ) open`,
    );
    const [now = open] = rows;
    if (now.runs < open.runs) endedAtMs = performance.now();
    open = now;
    if (performance.now() - endedAtMs > DRAIN_STALL_MS)
      throw new Error(`for ${DRAIN_STALL_MS} ms no run has ended of these: ${open.text}`);
    return open.runs === 0;
  };
  try {
    await waitFor(look, 'every run to end', DRAIN_MS);
  } finally {
    await client.end();
  }
}

async function generations(databaseUrl: string): Promise<Map<string, number>> {
  const client = await connect(databaseUrl);
  const { rows } = await client.query<{ name: string; generation: number }>(
    `select name, generation::int as generation from baton.pipelines where name <> 'ci'`,
  );
  await client.end();
  return new Map(rows.map(({ name, generation }) => [name, generation]));
}
