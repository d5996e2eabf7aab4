import { backoffMs } from '../base/backoff.js';
import type { Clock } from '../base/clock.js';

/** Unlike the server's, its timers keep the process alive: a worker whose server is away has nothing else that does. */
export const workerClock: Clock = {
  now: () => performance.now(),
  after(delayMs, task) {
    const timer = setTimeout(task, delayMs);
    return { cancel: () => clearTimeout(timer) };
  },
};

/** A switch that is turned once. An AbortSignal warns of a leak when as many wait for it as a worker has runs. */
export class Latch {
  readonly #listeners = new Set<() => void>();
  #isSet = false;

  get isSet(): boolean {
    return this.#isSet;
  }

  set(): void {
    this.#isSet = true;
    for (const listener of this.#listeners) listener();
    this.#listeners.clear();
  }

  /** Calls the listener once, when the latch is set after this. @returns what takes it away */
  onSet(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/** Waits; resolves early, and without a timer left, when the latch is set. */
export function pause(delayMs: number, latch: Latch): Promise<void> {
  return new Promise((resolve) => {
    if (latch.isSet) return resolve();
    const end = (): void => {
      clearTimeout(timer);
      forget();
      resolve();
    };
    const timer = setTimeout(end, delayMs);
    const forget = latch.onSet(end);
  });
}

/** Waits for a promise that never rejects, at most so long. Leaves no timer. */
export async function atMost(work: Promise<unknown>, delayMs: number): Promise<void> {
  const over = new Latch();
  await Promise.race([work, pause(delayMs, over)]);
  over.set();
}

const RETRY = { initialMs: 200, maxMs: 15_000 };

/** How long to wait before the next try: growing, jittered, and never less than the server asks for. */
export function retryAfterMs(failures: number, askedMs: number, maxMs: number = RETRY.maxMs): number {
  return Math.max(askedMs, backoffMs({ ...RETRY, maxMs: Math.min(maxMs, RETRY.maxMs) }, failures));
}
