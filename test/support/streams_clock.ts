import { systemClock, type Clock, type Timer } from '../../src/base/clock.js';

/** Real time, some times faster, that knows how many of its timers are pending: a stream must not leave one. */
export class FastClock implements Clock {
  readonly #speed: number;
  readonly #pending = new Set<object>();

  constructor(speed: number) {
    this.#speed = speed;
  }

  get pending(): number {
    return this.#pending.size;
  }

  now(): number {
    return systemClock.now() * this.#speed;
  }

  after(delayMs: number, task: () => void): Timer {
    const entry = {};
    this.#pending.add(entry);
    const timer = systemClock.after(delayMs / this.#speed, () => {
      this.#pending.delete(entry);
      task();
    });
    return {
      cancel: () => {
        this.#pending.delete(entry);
        timer.cancel();
      },
    };
  }
}
