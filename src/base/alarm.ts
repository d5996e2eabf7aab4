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
    this.#wake?.();
  }

  /** Sleeps until `wake`, or this time of the clock at the latest. May end earlier: whoever sleeps looks why. */
  async until(time: number): Promise<void> {
    const delayMs = time - this.#clock.now();
    if (delayMs <= 0) return;
    if (this.#timerAt > time) {
      this.cancel();
      this.#timerAt = time;
      this.#timer = this.#clock.after(delayMs, () => {
        this.cancel();
        this.wake();
      });
    }
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    this.#wake = undefined;
  }

  /** Leaves no timer behind. */
  cancel(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#timerAt = Number.POSITIVE_INFINITY;
  }
}
