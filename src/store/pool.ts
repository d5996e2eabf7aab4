import pg from 'pg';
import { systemClock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import { toStoreError } from './store_error.js';
import { JSONB, parseJsonb } from './jsonb.js';
import { parseTimestamp, TIMESTAMPTZ } from './timestamps.js';
import { connectingClient, destroySocket, processIdOf, Watchdog, type Watched } from './watchdog.js';

/**
 * A statement that runs so often that each connection keeps its plan. Only for texts whose best plan does not depend
 * on the values and finds its rows through indexes, and of which there are few: PostgreSQL keeps a plan for each name and
 * connection. It should not wait for what others have locked, because it shares its connections with all others of its
 * kind.
 */
export interface Statement {
  /** Distinct from that of every other statement. */
  readonly name: string;
  readonly text: string;
}

/** Where a statement can run: on any connection of the pool, or on the one of a transaction. */
export interface Queryable {
  /** Whether each statement is a transaction by itself. */
  readonly commits: boolean;
  /**
   * Runs one statement and returns its rows.
   * @throws BatonError DATABASE_UNAVAILABLE when there is no connection; `pg.DatabaseError` when the statement fails
   */
  query<Row extends pg.QueryResultRow>(statement: string | Statement, values?: unknown[]): Promise<Row[]>;
}

export interface Pool extends Queryable {
  /** Runs `work` in one transaction; it is rolled back when `work` throws. */
  transaction<T>(work: (tx: Queryable) => Promise<T>): Promise<T>;
  /**
   * Begins a read-only transaction in which every statement sees the same moment. It has one of the pool's connections
   * to itself until `end`, so it must not be held for long.
   */
  snapshot(): Promise<Snapshot>;
  /** Whether a backend of the database works for this pool; never known behind a transaction pooler. */
  owns(processId: number): boolean;
  /**
   * Calls back when a text or a transaction is over, or a `Statement` has failed: something may have been committed. What a
   * `Statement` has changed is known to whoever sent it.
   */
  onOver(listener: () => void): void;
  /** Connections that are open now. */
  readonly size: number;
  /** Open connections that nobody uses. */
  readonly idle: number;
  /** Who waits for a connection. */
  readonly waiting: number;
  /**
   * Waits for what is running, then closes every connection, and resolves when all are gone. A database that has gone
   * silent can keep it waiting until `abort`.
   */
  close(): Promise<void>;
  /** Breaks every connection and makes no more: what is running or comes fails at once, so that a stop need not wait. */
  abort(): void;
}

export interface Snapshot extends Queryable {
  /** Gives the connection back. Harmless when repeated. */
  end(): Promise<void>;
}

interface Session extends Queryable {
  rollback(): Promise<void>;
  release(): void;
}

export interface PoolOptions {
  readonly databaseUrl: string;
  readonly connections: number;
  readonly log: Logger;
  /** What the sessions are called in `pg_stat_activity`. */
  readonly name?: string;
  /**
   * The URL is that of a transaction pooler, which refuses settings of a session; set the lock timeout of the role
   * instead then.
   */
  readonly pooled?: boolean;
  /** How many of the connections are for statements that keep their plans: half of them when absent. */
  readonly keeping?: number;
  /** A statement that takes longer has lost its connection; `QUERY_TIMEOUT_MS` when absent. */
  readonly queryTimeoutMs?: number;
}

/**
 * Every statement here is short. The planner cannot know that of partitions without statistics, and compiles: reading
 * one page of the log took 37 ms with and 0.3 ms without.
 */
const NO_JIT = '-c jit=off';
/**
 * For the connections of statements that keep their plans. Left to itself, PostgreSQL plans a small batch anew each time,
 * which takes as long as everything else it does for it (a claim: 4.2 ms, with its plan kept 1.6 ms), or keeps a plan
 * from when the table was empty or nothing waited (a claim of 64 behind 30,000 runs that wait: 32 ms, with this 8 ms).
 */
const KEPT_PLANS = `${NO_JIT} -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off`;

const CONNECT_TIMEOUT_MS = 5000;
/** A statement that takes longer has lost its connection, or should not have been sent. */
const QUERY_TIMEOUT_MS = 30_000;
/** Somebody's open transaction may hold a row for ever; a call must not hold a connection for as long. */
const LOCK_TIMEOUT_MS = 3000;

/**
 * A process that stands still in the middle of a transaction would keep what it has locked for as long: a run, or a
 * stage with limits. The database ends its session before that.
 */
const BEGIN = `begin; set local idle_in_transaction_session_timeout = '5s'`;

const INT8 = 20;

/** int8 as bigint: revisions and versions do not fit a number for ever. Of jsonb and times see their parsers. */
export const types: pg.CustomTypesConfig = {
  getTypeParser(oid: number, format?: 'text' | 'binary'): (value: string) => unknown {
    if (oid === INT8 && format !== 'binary') return BigInt;
    if (oid === TIMESTAMPTZ && format !== 'binary') return parseTimestamp;
    if (oid === JSONB && format !== 'binary') return parseJsonb;
    return pg.types.getTypeParser(oid, format) as (value: string) => unknown;
  },
};

/** Connections that all have the same settings. */
interface Connections {
  readonly pool: pg.Pool;
  owns(processId: number): boolean;
  /** One of one's own. One that broke on the way is not given back to the pool. */
  checkOut(): Promise<Session>;
  /** Breaks those that nobody uses, so that they are replaced at the next use. */
  cutIdle(): void;
  close(): Promise<void>;
  abort(): void;
}

/** How the sessions of a pool present themselves. */
function sessionConfig(options: PoolOptions): pg.ClientConfig {
  return { connectionString: options.databaseUrl, application_name: options.name ?? 'baton' };
}

function openConnections(
  options: PoolOptions,
  max: number,
  settings: string | undefined,
  watchdog: Watchdog,
): Connections {
  const pool = new pg.Pool({
    ...sessionConfig(options),
    Client: connectingClient(watchdog),
    max,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: options.queryTimeoutMs ?? QUERY_TIMEOUT_MS,
    ...(settings === undefined ? {} : { lock_timeout: LOCK_TIMEOUT_MS, options: settings }),
    idleTimeoutMillis: 30_000,
    keepAlive: true,
    types,
  });
  // An idle connection that breaks is replaced at the next use; without a listener it would end the process.
  // A new client has no listener either until its caller goes on, and an error may come with its very first answer.
  const clients = new Set<pg.PoolClient>();
  const inUse = new Set<pg.PoolClient>();
  const processIds = new Set<number | undefined>();
  let aborted = false;
  // Not every transaction pooler brings a statement back to the connection that knows its plan.
  const toQuery = (statement: string | Statement, values: unknown[] = []): pg.QueryConfig => {
    if (typeof statement === 'string') return { text: statement, values };
    return options.pooled === true ? { text: statement.text, values } : { ...statement, values };
  };
  pool.on('connect', (client) => {
    client.on('error', () => undefined);
    clients.add(client);
    if (options.pooled !== true) processIds.add(processIdOf(client));
    if (aborted) destroySocket(client);
  });
  pool.on('acquire', (client) => inUse.add(client));
  pool.on('release', (_error, client) => inUse.delete(client));
  let onEmpty: (() => void) | undefined;
  pool.on('remove', (client) => {
    clients.delete(client);
    inUse.delete(client);
    processIds.delete(processIdOf(client));
    if (clients.size === 0) onEmpty?.();
  });
  pool.on('error', (error) => options.log.warn({ err: error }, 'an idle database connection was lost'));

  return {
    pool,
    owns: (processId) => processIds.has(processId),
    async checkOut() {
      let client: pg.PoolClient;
      if (aborted) throw new BatonError('DATABASE_UNAVAILABLE', 'this server is letting go of the database');
      try {
        client = await pool.connect();
      } catch (error) {
        throw toStoreError(error);
      }
      let broken: Error | undefined;
      const onError = (error: Error): void => {
        broken = error;
      };
      client.on('error', onError);
      const watched: Watched = { processId: processIdOf(client), cut: () => destroySocket(client) };
      const session: Session = {
        commits: false,
        async query<Row extends pg.QueryResultRow>(
          statement: string | Statement,
          values?: unknown[],
        ): Promise<Row[]> {
          watchdog.began(watched);
          try {
            return (await client.query<Row>(toQuery(statement, values))).rows;
          } catch (error) {
            // What the server itself refuses leaves the connection whole; anything else leaves it in doubt.
            if (!(error instanceof pg.DatabaseError))
              broken = error instanceof Error ? error : new Error(String(error));
            throw toStoreError(error);
          } finally {
            watchdog.ended(watched);
          }
        },
        async rollback() {
          if (broken === undefined) await session.query('rollback').catch(onError);
        },
        release() {
          client.off('error', onError);
          client.release(broken);
        },
      };
      return session;
    },
    cutIdle() {
      for (const client of clients) if (!inUse.has(client)) destroySocket(client);
    },
    async close() {
      await pool.end();
      // The pool forgets an idle connection when it says goodbye; one that has gone silent never answers that, and its
      // socket alone would keep the process from ending.
      if (clients.size > 0) await new Promise<void>((resolve) => (onEmpty = resolve));
    },
    abort() {
      aborted = true;
      for (const client of clients) destroySocket(client);
    },
  };
}

/**
 * Some of the connections are for statements that keep their plans, the others for texts and transactions, which may
 * wait for locks. Behind a transaction pooler, where a session cannot be set up, all are alike.
 */
export function createPool(options: PoolOptions): Pool {
  const pooled = options.pooled === true;
  const keeping = pooled ? 0 : (options.keeping ?? Math.floor(options.connections / 2));
  const texts = Math.max(options.connections - keeping, 1);
  const watchdog = new Watchdog({
    clock: systemClock,
    log: options.log,
    config: sessionConfig(options),
    onLost: () => {
      for (const connections of all) connections.cutIdle();
    },
  });
  const planned = openConnections(options, texts, pooled ? undefined : NO_JIT, watchdog);
  const kept = keeping === 0 ? planned : openConnections(options, keeping, KEPT_PLANS, watchdog);
  const all = [...new Set([planned, kept])];
  const sum = (count: (pool: pg.Pool) => number): number =>
    all.reduce((total, { pool }) => total + count(pool), 0);
  const checkOut = (): Promise<Session> => planned.checkOut();
  let tell = (): void => undefined;

  return {
    commits: true,
    async query(statement, values) {
      const isText = typeof statement === 'string';
      const session = await (isText ? planned : kept).checkOut();
      let known = false;
      try {
        const rows = await session.query<never>(statement, values);
        known = !isText;
        return rows;
      } finally {
        session.release();
        if (!known) tell();
      }
    },
    async transaction(work) {
      const session = await checkOut();
      try {
        await session.query(BEGIN);
        const result = await work(session);
        await session.query('commit');
        return result;
      } catch (error) {
        await session.rollback();
        throw error;
      } finally {
        session.release();
        tell();
      }
    },
    async snapshot() {
      const session = await checkOut();
      let open = true;
      const end = async (): Promise<void> => {
        if (!open) return;
        open = false;
        await session.rollback();
        session.release();
      };
      try {
        await session.query('begin isolation level repeatable read read only');
      } catch (error) {
        await end();
        throw error;
      }
      return {
        commits: false,
        async query(statement, values) {
          // The connection may have become part of another transaction by now.
          if (!open) throw new Error('the snapshot has ended');
          return session.query(statement, values);
        },
        end,
      };
    },
    owns: (processId) => all.some((connections) => connections.owns(processId)),
    onOver(listener) {
      tell = listener;
    },
    get size() {
      return sum((pool) => pool.totalCount);
    },
    get idle() {
      return sum((pool) => pool.idleCount);
    },
    get waiting() {
      return sum((pool) => pool.waitingCount);
    },
    async close() {
      await Promise.all(all.map((connections) => connections.close()));
      await watchdog.close();
    },
    abort() {
      watchdog.abort();
      for (const connections of all) connections.abort();
    },
  };
}
