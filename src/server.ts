import { systemClock, type Clock } from './base/clock.js';
import { LIMITS } from './base/limits.js';
import type { Logger } from './base/log.js';
import { formatAddress, type Address, type ServeConfig } from './config.js';
import { ConnectionCounts } from './rpc/connection_counts.js';
import { startGrpcServer } from './rpc/grpc.js';
import type { GrpcRegistry } from './rpc/grpc_services.js';
import { createHandlers } from './rpc/handlers.js';
import { Health } from './rpc/health.js';
import { startHttpServer } from './rpc/http.js';
import { Intake } from './rpc/intake.js';
import type { RpcServer } from './rpc/listener.js';
import { Metrics } from './rpc/metrics.js';
import { Reflection } from './rpc/reflection.js';
import { createService, type Service } from './service/service.js';
import { prepareDatabase } from './store/connect.js';
import { startEmbeddedPostgres } from './store/embedded/embedded-postgres.js';
import { createPool, type Pool, type PoolOptions } from './store/pool.js';
import { ping } from './store/sql/ping.js';

/** A server that is up. */
export interface RunningServer {
  readonly grpc: Address;
  readonly http: Address;
  /** Where the data is; also what `psql` takes. */
  readonly databaseUrl: string;
  readonly service: Service;
  /** Resolves with the reason when the server cannot go on; the caller should stop it then. */
  readonly failed: Promise<Error>;
  /** Ends in order: no new calls, waiting calls answered, streams ended with a token, database closed. Repeatable. */
  stop(): Promise<void>;
}

/** How long a stop waits for statements that are under way before it breaks their connections. */
const STOP_QUERIES_MS = 8000;
/** The same for what is still under way when all calls have been answered. All pools are closed at once. */
const CLOSE_POOL_MS = 1000;

/** What was started, so that it is stopped in reverse, also when a later step fails. */
class Stopper {
  readonly #steps: (() => Promise<void>)[] = [];
  #stopping: Promise<void> | undefined;

  push(step: () => Promise<void>): void {
    this.#steps.push(step);
  }

  stop(log: Logger): Promise<void> {
    this.#stopping ??= this.#run(log);
    return this.#stopping;
  }

  async #run(log: Logger): Promise<void> {
    for (const step of this.#steps.reverse()) {
      await step().catch((error: unknown) =>
        log.error({ err: error }, 'a part of the server did not stop cleanly'),
      );
    }
  }
}

interface Database {
  readonly url: string;
  readonly failed: Promise<Error>;
}

async function startDatabase(
  config: ServeConfig,
  log: Logger,
  signal: AbortSignal,
  stopper: Stopper,
): Promise<Database> {
  if (config.databaseUrl !== undefined)
    return { url: config.databaseUrl, failed: new Promise(() => undefined) };
  const embedded = await startEmbeddedPostgres({ dataDir: config.dataDir, log, signal });
  stopper.push(() => embedded.stop());
  const failed = embedded.exited.then(
    ({ code, signal: by }) =>
      new Error(`the embedded PostgreSQL ended by itself (code ${code}, signal ${by})`),
  );
  return { url: embedded.url, failed };
}

const WHY_NOT_LISTENING: Readonly<Record<string, string>> = {
  EADDRINUSE: 'is in use: stop what listens there, or give another address',
  EACCES: 'may not be listened on by this user: give a port above 1023',
  EADDRNOTAVAIL: 'is no address of this machine',
};

/** Of an error that says by its text alone what is wrong, as grpc-js throws it. */
function explainListening(listen: Address, setting: string): (error: unknown) => never {
  return (error) => {
    const text = error instanceof Error ? error.message : String(error);
    const [, why] = Object.entries(WHY_NOT_LISTENING).find(([code]) => text.includes(code)) ?? [];
    if (why === undefined) throw error;
    throw new Error(`${setting}: ${formatAddress(listen)} ${why}`, { cause: error });
  };
}

/** Calls that were broken off may still have statements under way: they get a moment. */
async function closePool(pool: Pool): Promise<void> {
  const timer = setTimeout(() => pool.abort(), CLOSE_POOL_MS);
  await pool.close();
  clearTimeout(timer);
}

async function stopListener(listener: RpcServer): Promise<void> {
  try {
    await listener.drain();
  } finally {
    await listener.close();
  }
}

/**
 * Starts everything, each part on what was started before it: database, migrations, pool, service, listeners.
 * Rejects when a part cannot start, after what was started is stopped again; aborting `signal` ends a start under way.
 *
 * @param clock of what the service does by itself
 */
export async function startServer(
  config: ServeConfig,
  log: Logger,
  signal: AbortSignal,
  clock: Clock = systemClock,
): Promise<RunningServer> {
  const stopper = new Stopper();
  try {
    const database = await startDatabase(config, log, signal, stopper);
    const { pooled } = await prepareDatabase({
      databaseUrl: database.url,
      listenUrl: config.listenUrl,
      listens: config.listen,
      log,
      signal,
    });
    const open = (options: Omit<PoolOptions, 'databaseUrl' | 'pooled' | 'log'>): Pool =>
      createPool({ databaseUrl: database.url, pooled, log, ...options });
    const pool = open({ connections: config.poolConnections });
    // Of its own, so that calls which wait for somebody's locks never keep the log from being read.
    const watchPool = open({
      connections: LIMITS.watchConnections,
      name: 'baton watch',
      queryTimeoutMs: LIMITS.watchQueryTimeoutMs,
    });
    // A state is read at the pace of who asked for it, which must be nobody else's.
    const statePool = open({ connections: LIMITS.stateConnections, keeping: 0, name: 'baton state' });
    const pools = [pool, watchPool, statePool];
    stopper.push(async () => void (await Promise.all(pools.map(closePool))));
    const abortPools = (): void => {
      for (const each of pools) each.abort();
    };
    // Until the service is up, this ends what a start waits for; then a stop is orderly.
    signal.addEventListener('abort', abortPools);
    const service = createService({
      pool,
      watchPool,
      statePool,
      listenUrl: config.listen ? (config.listenUrl ?? database.url) : undefined,
      retention: {
        logMs: config.logRetentionMs,
        runsMs: config.runRetentionMs,
        partitionRevisions: LIMITS.partitionRevisions,
      },
      streams: { ageMs: config.streamAgeMs, stallMs: LIMITS.stallMs },
      clock,
      log,
    });
    await service.start();
    stopper.push(() => service.stop());
    // What reads the log first: where the database allows fewer, calls have to do with what is left.
    void watchPool.fill().then(() => pool.fill());

    const handlers = createHandlers(service.jobs, service.pipelines);
    const health = new Health({ ping: () => ping(pool, pools), clock: systemClock, log });
    const reflection = new Reflection();
    const register = (registry: GrpcRegistry): void => {
      health.register(registry);
      reflection.register(registry);
    };
    const counts = new ConnectionCounts();
    const { onCall, route } = new Metrics({ metrics: [...service.metrics, ...counts.metrics], log });
    const intake = new Intake();
    const grpc = await startGrpcServer({
      handlers,
      intake,
      listen: config.grpcListen,
      log,
      onCall,
      counts,
      register,
    }).catch(explainListening(config.grpcListen, 'BATON_GRPC_LISTEN (--grpc-listen)'));
    stopper.push(() => stopListener(grpc));
    const http = await startHttpServer({
      handlers,
      intake,
      listen: config.httpListen,
      gate: { hosts: new Set(config.httpHosts), origins: new Set(config.httpOrigins) },
      log,
      onCall,
      counts,
      register,
      ready: () => Promise.resolve(health.ready),
      routes: route,
    }).catch(explainListening(config.httpListen, 'BATON_HTTP_LISTEN (--http-listen)'));
    // Draining waits for calls and streams, and these end when the service stops: all three go together.
    stopper.push(async () => {
      // Whoever chooses between servers hears of it first, and then nothing is open that would not end by itself.
      health.stop();
      reflection.stop();
      // A database that has gone silent would keep what is running from ending.
      const timer = setTimeout(abortPools, STOP_QUERIES_MS);
      await Promise.all([stopListener(http), stopListener(grpc), service.stop()]);
      clearTimeout(timer);
    });
    signal.throwIfAborted();
    signal.removeEventListener('abort', abortPools);
    health.start();
    return {
      grpc: { host: config.grpcListen.host, port: grpc.port },
      http: { host: config.httpListen.host, port: http.port },
      databaseUrl: database.url,
      service,
      failed: database.failed,
      stop: () => stopper.stop(log),
    };
  } catch (error) {
    await stopper.stop(log);
    throw error;
  }
}
