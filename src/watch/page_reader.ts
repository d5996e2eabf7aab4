import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import type { LogPage } from './message.js';

/** Pause before the log is read again when the database could not be reached. */
const RETRY_MS = 1000;

interface Reading {
  readonly after: bigint;
  outcome: { readonly page: LogPage } | { readonly error: unknown } | undefined;
}

export interface PageReaderOptions {
  readonly clock: Clock;
  readonly read: (after: bigint) => Promise<LogPage>;
  /** Whether somebody waits for the page. If not, it is not held but read again later. */
  readonly isWanted: () => boolean;
  /** Something has come of a reading. */
  readonly onSettled: () => void;
}

/** Reads the log for one stream, one page at a time, without making it wait: it may have other things to say. */
export class PageReader {
  readonly #options: PageReaderOptions;
  #reading: Reading | undefined;
  /** The database was away: not before this time is it asked again. */
  retryAt = Number.NEGATIVE_INFINITY;

  constructor(options: PageReaderOptions) {
    this.#options = options;
  }

  /**
   * The page after a revision, if it has come; begins to read it otherwise. While the database is away there is none: a
   * stream outlives its restart.
   *
   * @throws BatonError for a place that is lost
   */
  take(after: bigint): LogPage | undefined {
    const { clock } = this.#options;
    if (clock.now() < this.retryAt) return undefined;
    // The stream may have been live since that reading began, and stand elsewhere now.
    if (this.#reading?.after !== after) this.#reading = this.#begin(after);
    const { outcome } = this.#reading;
    if (outcome === undefined) return undefined;
    this.#reading = undefined;
    if ('page' in outcome) return outcome.page;
    const { error } = outcome;
    if (!(error instanceof BatonError) || error.reason !== 'DATABASE_UNAVAILABLE') throw error;
    this.retryAt = clock.now() + RETRY_MS;
    return undefined;
  }

  #begin(after: bigint): Reading {
    const { read, isWanted, onSettled } = this.#options;
    const reading: Reading = { after, outcome: undefined };
    const settle = (outcome: Reading['outcome']): void => {
      if (isWanted()) reading.outcome = outcome;
      else if (this.#reading === reading) this.#reading = undefined;
      onSettled();
    };
    read(after).then(
      (page) => settle({ page }),
      (error: unknown) => settle({ error }),
    );
    return reading;
  }
}
