import type { Clock } from './clock.js';

/**
 * A doorbell for a loop that does its work outside of event callbacks: `ring` notes that there is something to do,
 * `wait` returns at once if it rang since the last wait. Any number of rings before a wait count as one.
 */
export class Bell {
  readonly #clock: Clock;
  #rung = false;
  #wake: (() => void) | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }

  /** Waits for a ring, at most `timeoutMs`; says whether it rang. Only one loop may wait on a bell. */
  async wait(timeoutMs: number): Promise<boolean> {
    if (!this.#rung) {
      await new Promise<void>((resolve) => {
        const timer = this.#clock.after(timeoutMs, resolve);
        this.#wake = () => {
          timer.cancel();
          resolve();
        };
      });
      this.#wake = undefined;
    }
    const rung = this.#rung;
    this.#rung = false;
    return rung;
  }
}
