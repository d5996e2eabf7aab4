import { setTimeout as pause } from 'node:timers/promises';
import { LIMITS } from '../../src/base/limits.js';
import { systemClock } from '../../src/base/clock.js';
import { Retention } from '../../src/service/retention.js';
import { createPool, type Pool } from '../../src/store/pool.js';
import { silent } from '../support/database.js';
import type { FaultProxy, ProxyMode } from '../support/chaos_proxy.js';
import type { Prng } from '../support/log_prng.js';
import type { ChaosPostgres } from './postgres.js';
import type { ChaosServer } from './servers.js';
import { stall, type StallReport } from './stalled.js';
import { truncateDuringCatchUp, type TruncationReport } from './truncation.js';
import { connect } from './writers.js';

export interface FaultContext {
  readonly postgres: ChaosPostgres;
  readonly database: string;
  readonly servers: readonly ChaosServer[];
  readonly random: Prng;
  readonly signal: AbortSignal;
  /** How long a server is paused, and how large the pieces are in which history goes. */
  readonly pauseMs: number;
  /** How long faults of the network last, against their usual time. */
  readonly scale: number;
  readonly partitionRevisions: number;
}

/** After a fault has ended its effects go on for a while: clients come back, caches fill, sessions time out. */
const AFTERMATH_MS = 4000;

/** The kinds of fault by lane. Lanes run side by side, so faults of different lanes meet. */
export const LANES = [
  [
    'kill server',
    'restart postgres',
    'kill postgres',
    'terminate backends',
    'kill backend',
    'stop server',
    'pause server',
  ],
  [
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
  ],
  ['truncate log', 'stall own connection', 'stall shared connection'],
] as const;
export const ALL_KINDS: readonly string[] = LANES.flat();

/** A healthy stream has a bookmark every second. */
const STALL_SILENCE_MS = 3000;

interface Interval {
  readonly kind: string;
  readonly from: number;
  to: number;
}

/** Breaks things, one after the other in each of several lanes, and keeps the books. */
export class Faults {
  readonly #context: FaultContext;
  readonly #intervals: Interval[] = [];
  readonly counts = new Map<string, number>();
  readonly stalls: StallReport[] = [];
  readonly truncations: TruncationReport[] = [];
  /** Promises to operators that were broken, and faults that could not be made. */
  readonly problems: string[] = [];
  /** Tries that came to nothing because something else was broken at the same time. */
  missed = 0;

  constructor(context: FaultContext) {
    this.#context = context;
  }

  /** Whether nothing is broken now, nor was a moment ago. */
  isCalm(): boolean {
    return this.wasCalm(Date.now(), Date.now());
  }

  wasCalm(from: number, to: number): boolean {
    return this.#intervals.every((fault) => to < fault.from || from > fault.to + AFTERMATH_MS);
  }

  /** @returns whether it was made; what needs a server that is well fails beside other faults, and is tried again */
  async inject(kind: string): Promise<boolean> {
    const interval: Interval = { kind, from: Date.now(), to: Number.POSITIVE_INFINITY };
    this.#intervals.push(interval);
    try {
      await this.#make(kind);
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
      return true;
    } catch (error) {
      const needsHealth: readonly string[] = LANES[2];
      if (needsHealth.includes(kind)) this.missed += 1;
      else this.problems.push(`${kind}: ${String(error)}`);
      return false;
    } finally {
      interval.to = Date.now();
    }
  }

  #rest(low: number, high = low): Promise<void> {
    const { random, signal } = this.#context;
    return pause(random.between(low, high), undefined, { signal }).catch(() => undefined);
  }

  #server(): ChaosServer {
    return this.#context.random.pick(this.#context.servers);
  }

  async #make(kind: string): Promise<void> {
    const { postgres, pauseMs } = this.#context;
    switch (kind) {
      case 'kill server':
        return this.#killServer();
      case 'stop server':
        return this.#stopServer();
      case 'pause server':
        return this.#pauseServer(pauseMs);
      case 'restart postgres':
        await postgres.shutDown();
        await this.#rest(200, 2500);
        return postgres.up();
      case 'kill postgres':
        await postgres.kill();
        await this.#rest(200, 2500);
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
        const server = this.#server();
        server.grpc.reset();
        server.http.reset();
        return;
      }
      case 'drop notifications':
        return this.#dropNotifications();
      case 'truncate log':
        return this.#truncate();
      case 'stall own connection':
        return this.#stall(false);
      case 'stall shared connection':
        return this.#stall(true);
      default:
        throw new Error(`there is no fault ${kind}`);
    }
  }

  async #sql(statement: string): Promise<void> {
    const client = await connect(this.#context.postgres.url(this.#context.database));
    try {
      await client.query(statement);
    } finally {
      await client.end();
    }
  }

  async #killServer(): Promise<void> {
    const server = this.#server();
    await server.kill();
    await this.#rest(200, 3000);
    await server.up();
  }

  /** An orderly stop, which must not hang whatever else is broken; its streams end with a last token. */
  async #stopServer(): Promise<void> {
    const server = this.#server();
    if (!(await server.terminate())) this.problems.push('a server did not stop in time after SIGTERM');
    await server.up();
  }

  async #pauseServer(pauseMs: number): Promise<void> {
    const server = this.#server();
    server.healthy = false;
    server.signal('SIGSTOP');
    try {
      await this.#rest(pauseMs);
    } finally {
      server.signal('SIGCONT');
      server.healthy = true;
    }
  }

  async #killBackend(): Promise<void> {
    const { postgres, database } = this.#context;
    const client = await connect(postgres.url(database));
    const { rows } = await client.query<{ pid: number }>(
      `select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
       and backend_type = 'client backend' order by random() limit 1`,
    );
    await client.end();
    if (rows[0] !== undefined) postgres.killBackend(rows[0].pid);
    await this.#rest(500);
    await postgres.up();
  }

  async #proxy(
    choose: (server: ChaosServer) => readonly FaultProxy[],
    mode: ProxyMode,
    lowMs: number,
    highMs: number,
  ): Promise<void> {
    const proxies = choose(this.#server());
    for (const proxy of proxies) {
      proxy.delayMs = this.#context.random.between(50, 400);
      proxy.mode = mode;
    }
    try {
      await this.#rest(lowMs * this.#context.scale, highMs * this.#context.scale);
    } finally {
      for (const proxy of proxies) proxy.mode = 'pass';
    }
  }

  /** On every server at once: only polling is left. */
  async #dropNotifications(): Promise<void> {
    for (const { listen } of this.#context.servers) listen.mode = 'drop-notify';
    try {
      await this.#rest(3000, 3000 + 3000 * this.#context.scale);
    } finally {
      for (const { listen } of this.#context.servers) listen.mode = 'pass';
    }
  }

  async #truncate(): Promise<void> {
    const { postgres, database, random, partitionRevisions, signal } = this.#context;
    const pool: Pool = createPool({ databaseUrl: postgres.url(database), connections: 2, log: silent });
    try {
      // Streams that were away for a moment should find their place again; only who catches up is hit.
      const policy = { logMs: 2000, runsMs: 0, partitionRevisions };
      const retention = new Retention({ pool, clock: systemClock, log: silent, policy });
      const report = await truncateDuringCatchUp(pool, retention, random.pick(this.#context.servers), signal);
      this.truncations.push(report);
    } finally {
      await pool.close();
    }
  }

  async #stall(shared: boolean): Promise<void> {
    const from = Date.now();
    const report = await stall(this.#server(), shared, 4000, (ms) => this.#rest(ms));
    this.stalls.push(report);
    // The process's memory is reported too, but garbage makes up most of it.
    if ((report.heldPerStream ?? 0) > LIMITS.streamBytes)
      this.problems.push(`the server held ${Math.round(report.heldPerStream ?? 0)} bytes for a stream`);
    // Beside other faults the healthy stream has reasons of its own to be silent.
    const alone = this.#intervals.filter((fault) => fault.to + AFTERMATH_MS > from).length === 1;
    if (alone && report.longestSilenceMs > STALL_SILENCE_MS)
      this.problems.push(`a stream beside stalled ones was silent for ${report.longestSilenceMs} ms`);
  }
}
