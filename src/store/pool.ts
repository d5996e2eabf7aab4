import type pg from 'pg';
import { systemClock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import { openConnections, type Connections, type Session } from './connections.js';
import type { Queryable } from './queryable.js';
import { sessionConfig } from './session.js';
import { Watchdog } from './watchdog.js';

export type { Queryable, Statement } from './queryable.js';
export { types } from './connections.js';

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
  /** Breaks the connections that nobody uses: they lead to where nobody should work any more. */
  renew(): void;
  /**
   * Opens all connections, which stay from then on. Without it, whoever comes when none is free has one made for him, 100 to
   * 200 ms on a busy machine, and waits for that one though others come free long before. Where not all can be had, they come
   * and go by need, so that none stays which others lack.
   */
  fill(): Promise<void>;
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

export interface PoolOptions {
  readonly databaseUrl: string;
  readonly connections: number;
  readonly log: Logger;
  /** What the sessions are called in `pg_stat_activity`. */
  readonly name?: string;
  /** The URL is that of a transaction pooler, which takes no settings of a session. */
  readonly pooled?: boolean;
  /** How many of the connections are for statements that keep their plans: half of them when absent. */
  readonly keeping?: number;
  /** A statement that takes longer has lost its connection; `QUERY_TIMEOUT_MS` when absent. */
  readonly queryTimeoutMs?: number;
}

/**
 * For the connections of statements that keep their plans. Left to itself, PostgreSQL plans a small batch anew each time,
 * which takes as long as everything else it does for it (a claim: 4.2 ms, with its plan kept 1.6 ms), or keeps a plan
 * from when the table was empty or nothing waited (a claim of 64 behind 30,000 runs that wait: 32 ms, with this 8 ms).
 */
const KEPT_PLANS = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_sort: 'off',
  // These have to be left.
  enable_indexscan: 'on',
  enable_indexonlyscan: 'on',
  enable_nestloop: 'on',
};

/**
 * A process that stands still in the middle of a transaction would keep what it has locked for as long: a run, or a
 * stage with limits. The database ends its session before that.
 */
const BEGIN = `begin; set local idle_in_transaction_session_timeout = '5s'`;

/**
 * Some of the connections are for statements that keep their plans, the others for texts and transactions, which may
 * wait for locks. Behind a transaction pooler, where a session cannot be set up, all are alike.
 */
export function createPool(options: PoolOptions): Pool {
  const { databaseUrl, log, queryTimeoutMs, pooled = false, name = 'baton' } = options;
  const keeping = pooled ? 0 : (options.keeping ?? Math.floor(options.connections / 2));
  const texts = Math.max(options.connections - keeping, 1);
  const watchdog = new Watchdog({
    clock: systemClock,
    log,
    config: sessionConfig({ databaseUrl, name, pooled }),
    onLost: () => cutIdle(),
  });
  const openMany = (max: number, settings: Readonly<Record<string, string>>): Connections =>
    openConnections({ databaseUrl, name, max, pooled, queryTimeoutMs, settings, watchdog, log });
  const planned = openMany(texts, {});
  const kept = keeping === 0 ? planned : openMany(keeping, KEPT_PLANS);
  const all = [...new Set([planned, kept])];
  const sum = (count: (pool: pg.Pool) => number): number =>
    all.reduce((total, { pool }) => total + count(pool), 0);
  const cutIdle = (): void => {
    for (const connections of all) connections.cutIdle();
  };
  const checkOut = (): Promise<Session> => planned.checkOut();
  let tell = (): void => undefined;
  let isOver = false;
  let filled = Promise.resolve();
  const fill = async (): Promise<void> => {
    const opened = await Promise.all(all.map((connections) => connections.openAll()));
    const error = opened.find((each) => each.error !== undefined)?.error;
    for (const each of opened) each.end(error === undefined);
    if (error !== undefined && !isOver)
      log.warn({ err: error }, `not all ${options.connections} connections of "${name}" could be opened`);
  };

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
    renew: cutIdle,
    fill() {
      if (!isOver) filled = fill();
      return filled;
    },
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
      isOver = true;
      // A pool that is being closed never answers who waits for a connection.
      await filled;
      await Promise.all(all.map((connections) => connections.close()));
      await watchdog.close();
    },
    abort() {
      isOver = true;
      watchdog.abort();
      for (const connections of all) connections.abort();
    },
  };
}
