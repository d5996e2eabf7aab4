import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { LogPage } from './message.js';

export type ReadPage = (after: bigint, payload: boolean, epoch: string) => Promise<LogPage>;

interface SharedPage {
  readonly page: Promise<LogPage>;
  /** By the clock. */
  readonly until: number;
}

/**
 * Pages of the log for streams that catch up. Those that fell behind together want the same pages soon after one another:
 * each page is read and its events are decoded and encoded once for all of them, as for live streams. When each of a
 * thousand streams read by itself what a burst of 10,000 changes had left, the last had it after 37 s.
 *
 * What follows a revision never changes, so a page that is a little older is only shorter than it would be now. One
 * without events says where the log ends, which does change: it is for those alone that wait for it already.
 */
export class SharedPages {
  readonly #clock: Clock;
  readonly #readPage: ReadPage;
  /** In the order in which they were begun. */
  readonly #pages = new Map<string, SharedPage>();
  #sweepIsSet = false;

  constructor(clock: Clock, readPage: ReadPage) {
    this.#clock = clock;
    this.#readPage = readPage;
  }

  /** @throws BatonError as the reading itself does */
  async read(after: bigint, payload: boolean, epoch: string): Promise<LogPage> {
    this.#forgetOld();
    const key = `${epoch} ${after} ${payload}`;
    const shared = this.#pages.get(key);
    if (shared === undefined) return this.#begin(key, this.#readPage(after, payload, epoch));
    try {
      return await shared.page;
    } catch (error) {
      // That the database is away is news for all. But a revision may have been given out since another asked for it.
      if (error instanceof BatonError && error.reason === 'DATABASE_UNAVAILABLE') throw error;
      return this.read(after, payload, epoch);
    }
  }

  #begin(key: string, page: Promise<LogPage>): Promise<LogPage> {
    const entry = { page, until: this.#clock.now() + LIMITS.sharedPageMs };
    this.#pages.set(key, entry);
    const [oldest] = this.#pages.keys();
    if (oldest !== undefined && this.#pages.size > LIMITS.sharedPages) this.#pages.delete(oldest);
    const forget = (): void => {
      if (this.#pages.get(key) === entry) this.#pages.delete(key);
    };
    page.then(({ events }) => {
      if (events.length === 0) forget();
    }, forget);
    this.#sweepLater();
    return page;
  }

  /** Nothing is held for streams that may never ask again. */
  #sweepLater(): void {
    if (this.#sweepIsSet || this.#pages.size === 0) return;
    this.#sweepIsSet = true;
    this.#clock.after(LIMITS.sharedPageMs, () => {
      this.#sweepIsSet = false;
      this.#forgetOld();
      this.#sweepLater();
    });
  }

  #forgetOld(): void {
    const now = this.#clock.now();
    for (const [key, { until }] of this.#pages) {
      if (until > now) return;
      this.#pages.delete(key);
    }
  }
}
