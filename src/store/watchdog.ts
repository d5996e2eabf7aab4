import type { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import pg from 'pg';
import type { Clock, Timer } from '../base/clock.js';
import type { Logger } from '../base/log.js';

/** A connection on which statements are sent, or one that is being made. */
export interface Watched {
  /** Of the backend that it was told it has; undefined when it was told of none, or not yet. */
  readonly processId: number | undefined;
  /** It waits to be taken, not for the answer to a statement. */
  readonly isConnecting?: boolean;
  /** Breaks it, so that what waits for an answer on it fails. */
  readonly cut: () => void;
}

export interface WatchdogOptions {
  readonly clock: Clock;
  readonly log: Logger;
  /** How the watched connections were opened: the one that asks about them is opened alike. */
  readonly config: pg.ClientConfig;
  /** A connection was lost; those that nobody uses may have gone the same way. */
  readonly onLost: () => void;
}

/** A statement that has no answer after this is asked about. */
const DOUBT_MS = 1000;
/** Of a connection that is being made: it takes several answers. */
const CONNECT_DOUBT_MS = 2000;
const LOOK_MS = 250;
/** While statements are slow and well, they are not asked about more often than this. */
const ASK_PAUSE_MS = 1000;
const ASK_TIMEOUT_MS = 1000;

/**
 * Those of the backends that are at work, or have been so until a moment ago: their answers may be on the way. What a
 * backend does not tell is taken for work. The name tells that it is one of this program, not of another database that has
 * taken the address over and counts its processes alike.
 */
const AT_WORK = `
select pg_backend_pid() as own, array(
  select a.pid
  from pg_stat_activity a
  where a.pid = any ($1::int[])
    and a.application_name = current_setting('application_name')
    and (a.state is null or a.state not like 'idle%' or a.state_change > clock_timestamp() - interval '500 ms')
) as at_work`;

interface Answer {
  readonly own: number;
  readonly at_work: readonly number[];
}

/**
 * Finds connections that were lost without a word: a network that forgets a connection, or a host that vanishes, tells
 * nobody, and a statement on it would wait until its timeout, with all calls that are merged behind it. A statement that
 * takes long is therefore asked about on another connection. Whose backend is not at work, although an answer is
 * waited for, has lost it. A connection that is being made for as long, when another one was made meanwhile, is lost too.
 * As long as none can be had the database is away, and nothing is known.
 *
 * Behind a transaction pooler processes are not what a connection was told, so nothing is found out there, and
 * statements wait for their timeout.
 */
export class Watchdog {
  readonly #options: WatchdogOptions;
  /** Connections that wait for an answer, and since when. */
  readonly #since = new Map<Watched, number>();
  #timer: Timer | undefined;
  #asking: Promise<void> | undefined;
  #client: pg.Client | undefined;
  #askedAt = Number.NEGATIVE_INFINITY;
  #closed = false;
  #aborted = false;

  constructor(options: WatchdogOptions) {
    this.#options = options;
  }

  /** A statement was sent, or a connection asked for. */
  began(connection: Watched): void {
    this.#since.set(connection, this.#options.clock.now());
    if (this.#timer === undefined) this.#lookLater();
  }

  /** It has come to an end. */
  ended(connection: Watched): void {
    this.#since.delete(connection);
  }

  #lookLater(): void {
    if (!this.#closed) this.#timer = this.#options.clock.after(LOOK_MS, () => this.#look());
  }

  #look(): void {
    this.#timer = undefined;
    if (this.#since.size === 0) return;
    this.#lookLater();
    const now = this.#options.clock.now();
    if (this.#asking !== undefined || now < this.#askedAt + ASK_PAUSE_MS) return;
    const doubtful = [...this.#since].filter(
      ([{ processId, isConnecting }, since]) =>
        (isConnecting === true && since <= now - CONNECT_DOUBT_MS) ||
        (processId !== undefined && since <= now - DOUBT_MS),
    );
    if (doubtful.length === 0) return;
    this.#askedAt = now;
    this.#asking = this.#judge(doubtful)
      // The database is away, or has no room for another session.
      .catch((error: unknown) =>
        this.#options.log.debug({ err: error }, 'slow statements cannot be asked about'),
      )
      .finally(() => (this.#asking = undefined));
  }

  async #judge(doubtful: readonly (readonly [Watched, number])[]): Promise<void> {
    const isAtWork = await this.#ask(doubtful.flatMap(([{ processId }]) => processId ?? []));
    // An answer that arrived together with this one is read first.
    await nextTurn();
    if (this.#closed) return;
    const lost = doubtful
      .filter(
        ([connection, since]) => this.#since.get(connection) === since && !isAtWork(connection.processId),
      )
      .map(([connection]) => connection);
    if (lost.length === 0) return;
    this.#options.log.warn(
      { processIds: lost.map(({ processId }) => processId ?? 'being connected') },
      'database connections were lost without a word',
    );
    for (const connection of lost) connection.cut();
    this.#options.onLost();
  }

  /** @returns says of a backend whether it may still answer; one that has none yet should have had it by now */
  async #ask(processIds: readonly number[]): Promise<(processId: number | undefined) => boolean> {
    const client = new pg.Client({
      ...this.#options.config,
      connectionTimeoutMillis: ASK_TIMEOUT_MS,
      query_timeout: ASK_TIMEOUT_MS,
    });
    client.on('error', () => undefined);
    this.#client = client;
    try {
      await client.connect();
      const { rows } = await client.query<Answer>(AT_WORK, [processIds]);
      const [answer] = rows;
      // Else the numbers of processes mean nothing here.
      const isKnown = answer?.own === processIdOf(client);
      const atWork = new Set(answer?.at_work);
      return (processId) => processId !== undefined && (!isKnown || atWork.has(processId));
    } finally {
      // Without a goodbye, which nobody might answer.
      destroySocket(client);
      this.#client = undefined;
    }
  }

  /** Looks no more; resolves when it has let go of the database. */
  async close(): Promise<void> {
    this.#closed = true;
    this.#timer?.cancel();
    await this.#asking;
  }

  get aborted(): boolean {
    return this.#aborted;
  }

  /** Ends a question under way at once, and connections that are being made, or are yet to be. */
  abort(): void {
    this.#closed = true;
    this.#aborted = true;
    if (this.#client !== undefined) destroySocket(this.#client);
    for (const { isConnecting, cut } of this.#since.keys()) if (isConnecting === true) cut();
  }
}

/** PostgreSQL tells both of a session when it begins, and whenever they change. */
const READ_ONLY_PARAMETERS = ['in_hot_standby', 'default_transaction_read_only'];
/** Which of them are on. */
const readOnlyParameters = new WeakMap<pg.Client | pg.PoolClient, ReadonlySet<string>>();

/** Whether nothing can be written in a session, as far as PostgreSQL has told. */
export function isReadOnly(client: pg.Client | pg.PoolClient): boolean {
  return (readOnlyParameters.get(client)?.size ?? 0) > 0;
}

interface ParameterStatus {
  readonly parameterName: string;
  readonly parameterValue: string;
}

/** The class of clients that are watched while they connect, and of which is known whether they are read-only. */
export function connectingClient(watchdog: Watchdog): typeof pg.Client {
  return class extends pg.Client {
    constructor(config?: string | pg.ClientConfig) {
      super(config);
      const on = new Set<string>();
      readOnlyParameters.set(this, on);
      const { connection } = this as unknown as { connection: EventEmitter };
      connection.on('parameterStatus', ({ parameterName: name, parameterValue }: ParameterStatus) => {
        if (!READ_ONLY_PARAMETERS.includes(name)) return;
        if (parameterValue === 'on') on.add(name);
        else on.delete(name);
      });
    }

    override connect(): Promise<pg.Client>;
    override connect(callback: (error: Error | null) => void): void;
    override connect(callback?: (error: Error | null) => void): Promise<pg.Client> | undefined {
      const connecting: Watched = {
        processId: undefined,
        isConnecting: true,
        cut: () => destroySocket(this),
      };
      watchdog.began(connecting);
      // A pool makes a connection for each that waits, also when it is let go of meanwhile.
      if (watchdog.aborted) setImmediate(connecting.cut);
      if (callback === undefined) return super.connect().finally(() => watchdog.ended(connecting));
      // In the same turn: an error may follow the end of connecting at once, and whoever called listens for it then.
      super.connect((error: Error | null) => {
        watchdog.ended(connecting);
        callback(error);
      });
      return undefined;
    }
  };
}

/** What the notifications of a connection are signed with, and what the database calls its backend. */
export function processIdOf(client: pg.Client | pg.PoolClient): number | undefined {
  return (client as unknown as { processID?: number }).processID;
}

interface Socketed {
  readonly connection?: { readonly stream?: { readonly destroyed?: boolean; destroy?: () => void } };
}

/** Cuts a connection without a goodbye, which the other side of a half-open one would never answer. */
export function destroySocket(client: pg.Client | pg.PoolClient): void {
  (client as unknown as Socketed).connection?.stream?.destroy?.();
}

/** Whether that was done. */
export function isCut(client: pg.Client | pg.PoolClient): boolean {
  return (client as unknown as Socketed).connection?.stream?.destroyed === true;
}
