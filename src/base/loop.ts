import { Bell } from './bell.js';
import type { Clock } from './clock.js';

/** Work that is done again and again, with a pause between, until it is stopped. It never overlaps itself. */
export class Loop {
  readonly #bell: Bell;
  readonly #intervalMs: number;
  readonly #work: () => Promise<void>;
  #stopped = false;
  /** How long the pause after the present work lasts. */
  #pauseMs = 0;
  #running: Promise<void> | undefined;

  /** @param work must handle its own errors; it should look at `stopped` when it is long */
  constructor(clock: Clock, intervalMs: number, work: () => Promise<void>) {
    this.#bell = new Bell(clock);
    this.#intervalMs = intervalMs;
    this.#work = work;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** For the work itself: the pause after it lasts no longer than this. */
  againWithin(ms: number): void {
    this.#pauseMs = Math.min(this.#pauseMs, ms);
  }

  start(): void {
    this.#running = this.#run();
  }

  /** Waits for the work that is under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    this.#bell.ring();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      this.#pauseMs = this.#intervalMs;
      await this.#work();
      await this.#bell.wait(this.#pauseMs);
    }
  }
}
