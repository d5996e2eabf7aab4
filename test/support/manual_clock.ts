import type { Clock } from '../../src/base/clock.js';

/** Time that goes on only when the test says so. */
export class ManualClock implements Clock {
  #now = 0;
  #timers: { readonly at: number; readonly task: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  after(delayMs: number, task: () => void): { cancel(): void } {
    const timer = { at: this.#now + delayMs, task };
    this.#timers.push(timer);
    return { cancel: () => (this.#timers = this.#timers.filter((one) => one !== timer)) };
  }

  /** Lets a time pass, and what is due then happen. */
  async pass(ms: number): Promise<void> {
    this.#now += ms;
    const due = this.#timers.filter(({ at }) => at <= this.#now);
    this.#timers = this.#timers.filter(({ at }) => at > this.#now);
    for (const { task } of due) task();
    await new Promise((resolve) => setImmediate(resolve));
  }

  /** Lets a time pass of which no timer has heard yet, as when the process was busy. */
  skip(ms: number): void {
    this.#now += ms;
  }

  get timers(): number {
    return this.#timers.length;
  }
}
