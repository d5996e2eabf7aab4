import type { TakeMessage, WatchMessage } from './message.js';

/** A writer that is given each message in the moment at which it is there, until it has no room or is left. */
export class Handover {
  /** Resolves when it is over; rejects with what the writer throws. */
  readonly over: Promise<void>;
  readonly #take: TakeMessage;
  #resolve: () => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;
  #isOver = false;

  constructor(take: TakeMessage) {
    this.#take = take;
    this.over = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** @returns whether it goes on. Never throws: who gives has other streams to see to. */
  give(message: WatchMessage): boolean {
    try {
      if (!this.#take(message)) this.end();
    } catch (error) {
      this.#isOver = true;
      this.#reject(error);
    }
    return !this.#isOver;
  }

  end(): void {
    this.#isOver = true;
    this.#resolve();
  }
}
