const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
/** What cannot be broken off, such as looking up the name of a host, gets this long after an interrupted start. */
const END_MS = 1000;

/**
 * Aborts when the process is asked to stop, and keeps signals from ending it otherwise, until `release`.
 */
export class StopSignals {
  readonly #controller = new AbortController();
  readonly #onSignal = (): void => this.#controller.abort(new Error('stopped by a signal'));

  constructor() {
    for (const name of STOP_SIGNALS) process.on(name, this.#onSignal);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Resolves when the process is asked to stop. */
  get received(): Promise<undefined> {
    const { signal } = this;
    return new Promise((resolve) => {
      if (signal.aborted) resolve(undefined);
      else signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
  }

  release(): void {
    for (const name of STOP_SIGNALS) process.off(name, this.#onSignal);
  }

  /** After what was interrupted while it started: ends the process although something cannot be broken off. */
  endSoon(): void {
    setTimeout(() => process.exit(), END_MS).unref();
  }
}
