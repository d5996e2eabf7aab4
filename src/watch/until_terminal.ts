import { isTerminal, type Run } from '../run/run.js';
import type { WatchMessage } from './message.js';

interface Stream {
  next(): Promise<WatchMessage | undefined>;
  close(): void;
}

/**
 * A stream that ends well after the last event of runs that have all ended. What was open is known from a snapshot at
 * revision `since`; changes after it are taken from the stream itself, so a run that is retried counts as open again.
 */
export class UntilTerminal implements Stream {
  readonly #stream: Stream;
  readonly #since: bigint;
  readonly #open: Set<string>;
  #reached = -1n;

  constructor(stream: Stream, runs: readonly Run[], since: bigint) {
    this.#stream = stream;
    this.#since = since;
    this.#open = new Set(runs.filter((run) => !isTerminal(run.state)).map((run) => run.id));
  }

  async next(): Promise<WatchMessage | undefined> {
    if (this.#open.size === 0 && this.#reached >= this.#since) {
      this.#stream.close();
      return undefined;
    }
    const message = await this.#stream.next();
    if (message === undefined) return undefined;
    for (const { revision, run } of message.events) {
      if (revision <= this.#since) continue;
      if (isTerminal(run.state)) this.#open.delete(run.id);
      else this.#open.add(run.id);
    }
    // With the state still to come, OPENED and STATE have not brought the stream anywhere.
    if (message.resumeToken !== '') this.#reached = message.revision;
    return message;
  }

  close(): void {
    this.#stream.close();
  }
}
