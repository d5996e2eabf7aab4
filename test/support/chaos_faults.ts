import { setTimeout as pause } from 'node:timers/promises';
import type { FaultProxy, ProxyMode } from './chaos_proxy.js';
import type { ChaosPostgres } from './chaos_postgres.js';
import type { ChaosServer } from './chaos_servers.js';
import { connect } from './chaos_sql.js';
import { Prng } from './log_prng.js';

export interface FaultContext {
  readonly postgres: ChaosPostgres;
  readonly database: string;
  readonly servers: readonly ChaosServer[];
  readonly random: Prng;
  readonly signal: AbortSignal;
  /** How long a server is paused: from and up to. */
  readonly pauseMs: readonly [number, number];
  /** How long faults of the network last, against their usual time. */
  readonly scale: number;
}

/** After a fault has ended its effects go on for a while: clients come back, caches fill, sessions time out. */
export const AFTERMATH_MS = 4000;

/** What happens to processes and to the database, one after the other. */
export const PROCESS_FAULTS = [
  'kill server',
  'restart postgres',
  'kill postgres',
  'terminate backends',
  'kill backend',
  'stop server',
  'pause server',
] as const;
/** What happens to connections, beside the former. */
export const NETWORK_FAULTS = [
  'half-open pool',
  'half-open listen',
  'drop answers to pool',
  'drop requests of pool',
  'delay pool',
  'drop notifications',
  'half-open clients',
  'drop to clients',
  'delay clients',
  'reset clients',
] as const;
const PERIOD_MS = 60_000;

interface Interval {
  readonly kind: string;
  readonly from: number;
  to: number;
}

/** Breaks things, one after the other in each of several lanes, and keeps the books. */
export class Faults {
  protected readonly context: FaultContext;
  protected readonly intervals: Interval[] = [];
  readonly counts = new Map<string, number>();
  /** Promises to operators that were broken, and faults that could not be made. */
  readonly problems: string[] = [];
  /** Tries that came to nothing because something else was broken at the same time. */
  missed = 0;

  constructor(context: FaultContext) {
    this.context = context;
  }

  /** Whether nothing is broken now, nor was a moment ago. */
  isCalm(): boolean {
    return this.wasCalm(Date.now(), Date.now());
  }

  wasCalm(from: number, to: number): boolean {
    return this.intervals.every((fault) => to < fault.from || from > fault.to + AFTERMATH_MS);
  }

  /** @returns whether it was made; what needs a server that is well fails beside other faults, and is tried again */
  async inject(kind: string): Promise<boolean> {
    const interval: Interval = { kind, from: Date.now(), to: Number.POSITIVE_INFINITY };
    this.intervals.push(interval);
    try {
      await this.make(kind);
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
      return true;
    } catch (error) {
      if (error instanceof CameToNothing || this.needsHealth(kind)) this.missed += 1;
      else this.problems.push(`${kind}: ${String(error)}`);
      return false;
    } finally {
      interval.to = Date.now();
    }
  }

  /** Whether a kind of fault can only be made on a server that is well otherwise. */
  protected needsHealth(_kind: string): boolean {
    return false;
  }

  protected rest(low: number, high = low): Promise<void> {
    const { random, signal } = this.context;
    return pause(random.between(low, high), undefined, { signal }).catch(() => undefined);
  }

  protected server(): ChaosServer {
    return this.context.random.pick(this.context.servers);
  }

  protected async make(kind: string): Promise<void> {
    const { postgres, pauseMs } = this.context;
    switch (kind) {
      case 'kill server':
        return this.#killServer();
      case 'stop server':
        return this.#stopServer();
      case 'pause server':
        return this.#pauseServer(...pauseMs);
      case 'restart postgres':
        await postgres.shutDown();
        await this.rest(200, 2500);
        return postgres.up();
      case 'kill postgres':
        await postgres.kill();
        await this.rest(200, 2500);
        return postgres.up();
      case 'terminate backends':
        return this.#sql(
          `select pg_terminate_backend(pid) from pg_stat_activity
           where datname = current_database() and pid <> pg_backend_pid() and random() < 0.7`,
        );
      case 'kill backend':
        return this.#killBackend();
      case 'half-open pool':
        return this.#proxy((server) => [server.pool], 'half-open', 3000, 6000);
      case 'half-open listen':
        return this.#proxy((server) => [server.listen], 'half-open', 3000, 11_000);
      case 'drop answers to pool':
        return this.#proxy((server) => [server.pool, server.listen], 'drop-to-client', 500, 2500);
      case 'drop requests of pool':
        return this.#proxy((server) => [server.pool, server.listen], 'drop-to-server', 500, 2500);
      case 'delay pool':
        return this.#proxy((server) => [server.pool, server.listen], 'delay', 2000, 4000);
      case 'half-open clients':
        return this.#proxy((server) => [server.grpc, server.http], 'half-open', 2000, 6000);
      case 'drop to clients':
        return this.#proxy((server) => [server.grpc, server.http], 'drop-to-client', 500, 3000);
      case 'delay clients':
        return this.#proxy((server) => [server.grpc, server.http], 'delay', 2000, 4000);
      case 'reset clients': {
        const server = this.server();
        server.grpc.reset();
        server.http.reset();
        return;
      }
      case 'drop notifications':
        return this.#dropNotifications();
      default:
        throw new Error(`there is no fault ${kind}`);
    }
  }

  async #sql(statement: string): Promise<void> {
    const client = await connect(this.context.postgres.url(this.context.database));
    try {
      await client.query(statement);
    } finally {
      await client.end();
    }
  }

  async #killServer(): Promise<void> {
    const server = this.server();
    await server.kill();
    await this.rest(200, 3000);
    await server.up();
  }

  /** An orderly stop, which must not hang whatever else is broken; its streams end with a last token. */
  async #stopServer(): Promise<void> {
    const server = this.server();
    if (!(await server.terminate()))
      this.problems.push(`a server did not stop in time after SIGTERM: ${server.logged.slice(-2000)}`);
    await server.up();
  }

  async #pauseServer(lowMs: number, highMs: number): Promise<void> {
    const server = this.server();
    server.healthy = false;
    server.signal('SIGSTOP');
    try {
      await this.rest(lowMs, highMs);
    } finally {
      server.signal('SIGCONT');
      server.healthy = true;
    }
  }

  async #killBackend(): Promise<void> {
    const { postgres, database } = this.context;
    const client = await connect(postgres.url(database));
    const { rows } = await client.query<{ pid: number }>(
      `select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
       and backend_type = 'client backend' order by random() limit 1`,
    );
    await client.end();
    if (rows[0] !== undefined) postgres.killBackend(rows[0].pid);
    await this.rest(500);
    await postgres.up();
  }

  async #proxy(
    choose: (server: ChaosServer) => readonly FaultProxy[],
    mode: ProxyMode,
    lowMs: number,
    highMs: number,
  ): Promise<void> {
    const proxies = choose(this.server());
    for (const proxy of proxies) {
      proxy.delayMs = this.context.random.between(50, 400);
      proxy.mode = mode;
    }
    try {
      await this.rest(lowMs * this.context.scale, highMs * this.context.scale);
    } finally {
      for (const proxy of proxies) proxy.mode = 'pass';
    }
  }

  /** On every server at once: only polling is left. */
  async #dropNotifications(): Promise<void> {
    const listens = this.context.servers.map(({ listen }) => listen);
    const dropped = (): number =>
      listens.reduce((sum, { notificationsDropped }) => sum + notificationsDropped, 0);
    const before = dropped();
    for (const listen of listens) listen.mode = 'drop-notify';
    try {
      await this.rest(3000, 3000 + 3000 * this.context.scale);
    } finally {
      for (const listen of listens) listen.mode = 'pass';
    }
    // PostgreSQL was down all the time, or nobody listened.
    if (dropped() === before) throw new CameToNothing('no notification came that could be dropped');
  }
}

/** A fault that changed nothing, because of others at the same time: it is made again. */
class CameToNothing extends Error {}

export interface Schedule {
  readonly seed: number;
  readonly durationMs: number;
  /** The kinds of fault to make; none to see what the machine does by itself. */
  readonly kinds: readonly string[];
  /** Without faults at the start of each minute and at the end, so that their effects can be told from the usual. */
  readonly calmMs: number;
  /** Longest time between two faults of a lane. */
  readonly gapMs: number;
}

/** How much longer than planned: what has not come about by then is told by the floors. */
const LONGER_MS = 240_000;

/**
 * Each lane goes through its kinds in a new order again and again; no fault begins where it could not end in time.
 *
 * @param hasEnough whether the run has seen what its floors ask for
 */
export async function injectFaults(
  faults: Faults,
  allLanes: readonly (readonly string[])[],
  options: Schedule,
  signal: AbortSignal,
  hasEnough: () => boolean,
): Promise<void> {
  const startedAt = performance.now();
  const sinceStart = (): number => performance.now() - startedAt;
  const lanes = allLanes.map(async (all, lane) => {
    const random = new Prng(options.seed * 100 + 10 + lane);
    const kinds = all.filter((kind) => options.kinds.includes(kind));
    let queue: string[] = [];
    // Time is up when it is over, but not before each kind was made once and enough has come of it, unless that takes far
    // too long.
    const isOver = (): boolean =>
      sinceStart() > options.durationMs + LONGER_MS ||
      (sinceStart() > options.durationMs - options.calmMs &&
        kinds.every((kind) => faults.counts.has(kind)) &&
        hasEnough());
    while (kinds.length > 0 && !isOver() && !signal.aborted) {
      const inPeriod = sinceStart() % PERIOD_MS;
      if (inPeriod < options.calmMs) {
        await pause(options.calmMs - inPeriod);
        continue;
      }
      if (queue.length === 0) queue = shuffled(kinds, random);
      const kind = queue.pop();
      if (kind !== undefined && !(await faults.inject(kind))) queue.unshift(kind);
      await pause(random.between(100, options.gapMs));
    }
  });
  await Promise.all(lanes);
  await pause(Math.max(0, options.durationMs - sinceStart()));
}

function shuffled(kinds: readonly string[], random: Prng): string[] {
  const left = [...kinds];
  const order: string[] = [];
  while (left.length > 0) order.push(...left.splice(random.between(0, left.length - 1), 1));
  return order;
}
