import pg from 'pg';
import { backoffMs } from '../base/backoff.js';
import type { Clock, Timer } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import { sessionConfig } from '../store/session.js';
import { destroySocket } from '../store/watchdog.js';

/** The channel on which the log rings after every commit that changed a run. */
export const LOG_CHANNEL = 'baton_log';

const ECHO_INTERVAL_MS = 5000;
const ECHO_TIMEOUT_MS = 5000;
const CONNECT_TIMEOUT_MS = 5000;
const RECONNECT = { initialMs: 100, maxMs: 5000 };

export interface ListenerOptions {
  readonly databaseUrl: string;
  readonly clock: Clock;
  readonly log: Logger;
  /**
   * Rung when something may have been committed: on a notification, and after every LISTEN, because what was
   * committed before it was not announced. It must only take note; it runs inside the connection's callback.
   *
   * @param processId of the backend that has committed; undefined after a LISTEN
   */
  readonly onRing: (processId?: number) => void;
  /** Called after every LISTEN, before the ring: the database behind the connection may be another one now. */
  readonly onConnect: () => void;
}

/**
 * The server's one LISTEN connection. It is dedicated, has TCP keepalive, and proves every few seconds that the whole
 * path works by notifying itself on a channel of its own; a connection that stays silent is given up, however
 * healthy its socket looks. Lost connections are replaced with a jittered backoff.
 *
 * States: connecting -> listening -> (lost) -> waiting -> connecting ...; stop() ends it in any of them.
 */
export class Listener {
  readonly #options: ListenerOptions;
  readonly #echoChannel = `baton_echo_${process.pid}_${Math.random().toString(36).slice(2, 10)}`;
  #client: pg.Client | undefined;
  #timer: Timer | undefined;
  #attempt = 0;
  #stopped = false;
  #listening = false;
  #echoSentAt: number | undefined;
  /** Milliseconds that the last echo took, undefined before the first. */
  echoMs: number | undefined;

  constructor(options: ListenerOptions) {
    this.#options = options;
  }

  get listening(): boolean {
    return this.#listening;
  }

  /** How late a notification is, in milliseconds: the last echo, or the one that is out if that takes longer already. */
  get echoLagMs(): number | undefined {
    if (!this.#listening) return undefined;
    const outMs = this.#echoSentAt === undefined ? 0 : this.#options.clock.now() - this.#echoSentAt;
    return Math.max(this.echoMs ?? 0, outMs);
  }

  start(): void {
    void this.#connect();
  }

  stop(): Promise<void> {
    this.#stopped = true;
    this.#listening = false;
    this.#timer?.cancel();
    const client = this.#client;
    this.#client = undefined;
    // An orderly goodbye would wait for ever on a connection that is half open.
    if (client !== undefined) destroySocket(client);
    return Promise.resolve();
  }

  async #connect(): Promise<void> {
    const { databaseUrl, log } = this.#options;
    const client = new pg.Client({
      ...sessionConfig({ databaseUrl, name: 'baton listen' }),
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    });
    this.#client = client;
    client.on('error', (error) => this.#lose(client, error));
    client.on('end', () => this.#lose(client, new Error('the connection ended')));
    client.on('notification', (message) => {
      if (message.channel === this.#echoChannel) this.#onEcho();
      else this.#options.onRing(message.processId);
    });
    // Also for a server that takes the connection and then stays silent.
    this.#timer = this.#options.clock.after(2 * CONNECT_TIMEOUT_MS, () =>
      this.#lose(client, new Error('the connection was not ready in time')),
    );
    try {
      await client.connect();
      await client.query(`listen ${LOG_CHANNEL}; listen ${this.#echoChannel}`);
    } catch (error) {
      this.#lose(client, error);
      return;
    }
    if (client !== this.#client) return;
    this.#timer.cancel();
    this.#attempt = 0;
    this.#listening = true;
    log.debug('listening for changes');
    // LISTEN first, then read: whatever was committed before the LISTEN is found by the read this ring causes.
    this.#options.onConnect();
    this.#options.onRing();
    this.#sendEcho(client);
  }

  #lose(client: pg.Client, error: unknown): void {
    if (client !== this.#client || this.#stopped) return;
    this.#client = undefined;
    this.#timer?.cancel();
    if (this.#listening)
      this.#options.log.warn({ err: error }, 'the LISTEN connection was lost; polling until it is back');
    this.#listening = false;
    this.#echoSentAt = undefined;
    // The socket may be half open, so an orderly goodbye could hang; nothing is lost by cutting it.
    destroySocket(client);
    this.#attempt += 1;
    const delayMs = backoffMs(RECONNECT, this.#attempt);
    this.#timer = this.#options.clock.after(delayMs, () => void this.#connect());
  }

  #sendEcho(client: pg.Client): void {
    this.#echoSentAt = this.#options.clock.now();
    client
      .query('select pg_notify($1, $2)', [this.#echoChannel, ''])
      .catch((error: unknown) => this.#lose(client, error));
    this.#timer = this.#options.clock.after(ECHO_TIMEOUT_MS, () =>
      this.#lose(client, new Error(`no echo within ${ECHO_TIMEOUT_MS} ms`)),
    );
  }

  #onEcho(): void {
    const client = this.#client;
    if (client === undefined || this.#echoSentAt === undefined) return;
    this.echoMs = this.#options.clock.now() - this.#echoSentAt;
    this.#echoSentAt = undefined;
    this.#timer?.cancel();
    this.#timer = this.#options.clock.after(ECHO_INTERVAL_MS, () => this.#sendEcho(client));
  }
}
