import type { Clock, Timer } from './clock.js';

/**
 * What one loop sleeps by: until it is woken, or a time has come. The timer is left running when it is woken early, and
 * serves the next sleep: for a loop that is woken by each message, to set one for each is a tenth of what a message costs.
 */
export class Alarm {
  readonly #clock: Clock;
  #timer: Timer | undefined;
  #timerAt = Number.POSITIVE_INFINITY;
  #wake: (() => void) | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Ends the sleep, if there is one. */
  wake(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }

  /** Sleeps until `wake`, or this time of the clock at the latest. May end earlier: whoever sleeps looks why. */
  async until(time: number): Promise<void> {
    if (time > this.#clock.now()) await new Promise<void>((resolve) => this.set(time, resolve));
  }

  /** The same for a loop that is called again: once, by the next `wake`, or when the time has come. */
  set(time: number, wake: () => void): void {
    this.#wake = wake;
    if (this.#timerAt <= time) return;
    this.cancel();
    this.#timerAt = time;
    this.#timer = this.#clock.after(Math.max(time - this.#clock.now(), 0), () => {
      this.cancel();
      this.wake();
    });
  }

  /** Leaves no timer behind. */
  cancel(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#timerAt = Number.POSITIVE_INFINITY;
  }
}
