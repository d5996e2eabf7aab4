import pg from 'pg';
import { BatonError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import { JSONB, parseJsonb } from './jsonb.js';
import type { Queryable, Statement } from './queryable.js';
import { sessionConfig } from './session.js';
import { readOnlyError, spoilsSessions, toStoreError } from './store_error.js';
import { parseTimestamp, TIMESTAMPTZ } from './timestamps.js';
import {
  connectingClient,
  destroySocket,
  isCut,
  isReadOnly,
  processIdOf,
  type Watchdog,
  type Watched,
} from './watchdog.js';

/** A connection that one caller has to itself. */
export interface Session extends Queryable {
  rollback(): Promise<void>;
  release(): void;
}

const CONNECT_TIMEOUT_MS = 5000;
/** A statement that takes longer has lost its connection, or should not have been sent. */
const QUERY_TIMEOUT_MS = 30_000;
/** Somebody's open transaction may hold a row for ever; a call must not hold a connection for as long. */
const LOCK_TIMEOUT_MS = 3000;

/** A network may forget a connection that says nothing for some minutes, and tells nobody. */
const KEEPALIVE_MS = 30_000;

/** How long calls fail at once after a session was read-only, so that each of them does not make another. */
const READ_ONLY_PAUSE_MS = 500;

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
export interface Connections {
  readonly pool: pg.Pool;
  owns(processId: number): boolean;
  /** One of one's own. One that broke on the way is not given back to the pool. */
  checkOut(): Promise<Session>;
  /** Breaks those that nobody uses, so that they are replaced at the next use. */
  cutIdle(): void;
  /** Opens all, and holds them. */
  openAll(): Promise<OpenedAll>;
  close(): Promise<void>;
  abort(): void;
}

export interface OpenedAll {
  /** Why one of them could not be opened. */
  readonly error: unknown;
  /** @param stay whether they stay, for whoever needs one, or are closed */
  end(stay: boolean): void;
}

export interface ConnectionsOptions {
  readonly databaseUrl: string;
  /** What the sessions are called in `pg_stat_activity`. */
  readonly name: string;
  /** The most that are open at a time. */
  readonly max: number;
  readonly pooled: boolean;
  readonly queryTimeoutMs: number | undefined;
  /** More than what every session of Baton has. */
  readonly settings: Readonly<Record<string, string>>;
  readonly watchdog: Watchdog;
  readonly log: Logger;
}

export function openConnections(options: ConnectionsOptions): Connections {
  const { databaseUrl, name, pooled, watchdog, log } = options;
  const settings = { lock_timeout: String(LOCK_TIMEOUT_MS), ...options.settings };
  const pool = new pg.Pool({
    ...sessionConfig({ databaseUrl, name, pooled, settings }),
    Client: connectingClient(watchdog),
    max: options.max,
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: options.queryTimeoutMs ?? QUERY_TIMEOUT_MS,
    idleTimeoutMillis: 30_000,
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_MS,
    types,
  });
  // An idle connection that breaks is replaced at the next use; without a listener it would end the process.
  // A new client has no listener either until its caller goes on, and an error may come with its very first answer.
  const clients = new Set<pg.PoolClient>();
  const inUse = new Set<pg.PoolClient>();
  const processIds = new Set<number | undefined>();
  let aborted = false;
  const isAborted = (): boolean => aborted;
  /** Until then nobody asks for a connection: the last one that was made was read-only. */
  let refusedUntil = 0;
  const cutIdle = (): void => {
    for (const client of clients) if (!inUse.has(client)) destroySocket(client);
  };
  // Not every transaction pooler brings a statement back to the connection that knows its plan.
  const toQuery = (statement: string | Statement, values: unknown[] = []): pg.QueryConfig => {
    if (typeof statement === 'string') return { text: statement, values };
    return pooled ? { text: statement.text, values } : { ...statement, values };
  };
  pool.on('connect', (client) => {
    client.on('error', () => undefined);
    clients.add(client);
    if (!pooled) processIds.add(processIdOf(client));
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
  pool.on('error', (error) => log.warn({ err: error }, 'an idle database connection was lost'));

  return {
    pool,
    owns: (processId) => processIds.has(processId),
    async checkOut() {
      let client: pg.PoolClient;
      if (aborted) throw new BatonError('DATABASE_UNAVAILABLE', 'this server is letting go of the database');
      if (performance.now() < refusedUntil) throw readOnlyError();
      try {
        client = await pool.connect();
        // It was cut a moment ago, and the pool has not heard of it.
        while (isCut(client) && !isAborted()) {
          client.release(true);
          client = await pool.connect();
        }
      } catch (error) {
        throw toStoreError(error);
      }
      // PostgreSQL has told when the session began; behind a pooler it is told of another one.
      if (!pooled && isReadOnly(client)) {
        refusedUntil = performance.now() + READ_ONLY_PAUSE_MS;
        const error = readOnlyError();
        client.release(error);
        cutIdle();
        throw error;
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
            const isSpoilt = spoilsSessions(error);
            if (isSpoilt || !(error instanceof pg.DatabaseError))
              broken = error instanceof Error ? error : new Error(String(error));
            if (isSpoilt) cutIdle();
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
    cutIdle,
    async openAll() {
      // Held until all are there: one that is given back would be given again instead of a new one.
      const opened = await Promise.allSettled(Array.from({ length: options.max }, () => pool.connect()));
      return {
        error: opened.find((one) => one.status === 'rejected')?.reason as unknown,
        end(stay) {
          // So many are not closed for having nothing to do.
          if (stay) pool.options.min = options.max;
          for (const one of opened) if (one.status === 'fulfilled') one.value.release(!stay);
        },
      };
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
