import { reasonOf } from './watch_connection.js';
import { retryDelayMs } from './watch_errors.js';
import type { Reconnect, WatchRunsOptions } from './watch_types.js';

/** Each server is asked once without a pause but for this, so that many watches do not move over at the same moment. */
const SPREAD_MS = 200;
const BACKOFF_INITIAL_MS = 250;
const BACKOFF_MAX_MS = 15_000;

/** Which server comes next and when: every one at once at first, then with growing, jittered pauses. */
export class WatchRetry {
  readonly #servers: number;
  readonly #options: WatchRunsOptions;
  /** Attempts since the last message that brought something. */
  #failures = 0;
  #failingSinceMs: number | undefined;
  #server = 0;

  constructor(servers: number, options: WatchRunsOptions) {
    this.#servers = servers;
    this.#options = options;
  }

  /** The index of the server to ask. */
  get server(): number {
    return this.#server;
  }

  /** A message beyond OPENED has come: the server works. */
  succeeded(): void {
    this.#failures = 0;
    this.#failingSinceMs = undefined;
  }

  /** Waits before the next attempt. @throws the error when it is time to give up, or the reason of the signal */
  async wait(error: unknown): Promise<void> {
    const { onReconnect, signal, giveUpAfterMs = Number.POSITIVE_INFINITY } = this.#options;
    const now = performance.now();
    this.#failingSinceMs ??= now;
    if (now - this.#failingSinceMs >= giveUpAfterMs) throw error;
    this.#failures += 1;
    this.#server = (this.#server + 1) % this.#servers;
    const reconnect: Reconnect = {
      error,
      attempt: this.#failures,
      delayMs: this.#delayMs(error),
      server: this.#server,
    };
    onReconnect?.(reconnect);
    await pause(reconnect.delayMs, signal);
  }

  #delayMs(error: unknown): number {
    const round = this.#failures - this.#servers;
    const fullMs = Math.min(BACKOFF_MAX_MS, BACKOFF_INITIAL_MS * 2 ** Math.min(round, 30));
    const delayMs = round <= 0 ? SPREAD_MS * Math.random() : (fullMs / 2) * (1 + Math.random());
    // What a server asks for is about itself; another one may be asked before.
    return this.#servers === 1 ? Math.max(delayMs, retryDelayMs(error)) : delayMs;
  }
}

function pause(delayMs: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(reasonOf(signal));
    const onAbort = (): void => {
      clearTimeout(timer);
      if (signal !== undefined) reject(reasonOf(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, delayMs);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
