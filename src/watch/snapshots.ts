import type { Clock, Timer } from '../base/clock.js';
import { LIMITS } from '../base/limits.js';
import type { Pool, Snapshot } from '../store/pool.js';

/** Who reads a state from a snapshot. */
export interface SnapshotReader {
  /** How long it has stood still because nobody took what it has read, in milliseconds; 0 while it reads. */
  stalledMs(now: number): number;
  /** It has stood still for too long while others waited: it ends its snapshot. */
  giveUp(): void;
}

interface Waiting {
  readonly reader: SnapshotReader;
  readonly go: (isItsTurn: boolean) => void;
}

/** How often readers that stand still are looked for while others wait. */
const LOOK_MS = 250;

/**
 * Gives out the few snapshots that there may be at a time, in the order of asking. One has a connection for as long as
 * its state is read, at the pace of a reader that may be slow: so the connections are no one else's, and a reader that
 * stands still loses its own as soon as another one waits.
 */
export class Snapshots {
  readonly #pool: Pool;
  readonly #clock: Clock;
  readonly #readers = new Set<SnapshotReader>();
  #waiting: Waiting[] = [];
  #timer: Timer | undefined;

  /** @param pool of `LIMITS.stateConnections`, for this alone */
  constructor(pool: Pool, clock: Clock) {
    this.#pool = pool;
    this.#clock = clock;
  }

  /**
   * Begins a snapshot when it is this reader's turn.
   *
   * @returns undefined when the reader has left before that
   */
  async begin(reader: SnapshotReader): Promise<Snapshot | undefined> {
    if (this.#readers.size < LIMITS.stateConnections) this.#readers.add(reader);
    else if (!(await this.#turn(reader))) return undefined;
    try {
      const snapshot = await this.#pool.snapshot();
      const end = (): Promise<void> => snapshot.end().finally(() => this.#release(reader));
      return { commits: false, query: (statement, values) => snapshot.query(statement, values), end };
    } catch (error) {
      this.#release(reader);
      throw error;
    }
  }

  #turn(reader: SnapshotReader): Promise<boolean> {
    return new Promise((resolve) => {
      this.#waiting.push({ reader, go: resolve });
      if (this.#timer === undefined) this.#timer = this.#clock.after(LOOK_MS, () => this.#look());
    });
  }

  /** A reader that waits does so no longer. Harmless for any other. */
  leave(reader: SnapshotReader): void {
    const index = this.#waiting.findIndex((waiting) => waiting.reader === reader);
    if (index >= 0) this.#waiting.splice(index, 1)[0]?.go(false);
  }

  /** Takes snapshots from those who have stood still the longest, one for each who waits. */
  #look(): void {
    const now = this.#clock.now();
    const stalled = [...this.#readers]
      .filter((reader) => reader.stalledMs(now) >= LIMITS.stateStallMs)
      .sort((a, b) => b.stalledMs(now) - a.stalledMs(now));
    for (const reader of stalled.slice(0, this.#waiting.length)) reader.giveUp();
    const isNeeded = this.#waiting.length > 0;
    this.#timer = isNeeded ? this.#clock.after(LOOK_MS, () => this.#look()) : undefined;
  }

  #release(reader: SnapshotReader): void {
    if (!this.#readers.delete(reader)) return;
    const next = this.#waiting.shift();
    if (next === undefined) return;
    this.#readers.add(next.reader);
    next.go(true);
  }
}
