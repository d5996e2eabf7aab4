import type { Clock } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import { Loop } from '../base/loop.js';
import type { Queryable } from '../store/pool.js';
import { expireLeases } from '../store/sql/expire_leases.js';
import { findDueStages } from '../store/sql/find_due_stages.js';
import type { Claims } from './claims.js';

/** How often due work is looked for. Ended leases are found within this, so the promise of 2 s holds with room. */
const INTERVAL_MS = 1000;
/** The shortest pause, so that runs that come due one after the other do not make it look without end. */
const INTERVAL_MIN_MS = 200;
const LEASES_PER_STATEMENT = 500;

export interface HousekeepingOptions {
  readonly db: Queryable;
  readonly claims: Claims;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * What has to happen when nobody calls: leases end, and delays and retries come due. All times are the database's.
 * Any number of servers do this side by side; each takes what no other has in hand.
 */
export class Housekeeping {
  /** Leases that this server has ended because their time was over. */
  endedLeases = 0;
  readonly #options: HousekeepingOptions;
  readonly #loop: Loop;

  constructor(options: HousekeepingOptions) {
    this.#options = options;
    this.#loop = new Loop(options.clock, INTERVAL_MS, () => this.#sweep());
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  async #sweep(): Promise<void> {
    try {
      await this.#endLeases();
      await this.#wakeDueStages();
    } catch (error) {
      this.#options.log.warn({ err: error }, 'housekeeping failed; trying again');
    }
  }

  async #endLeases(): Promise<void> {
    let ended: number;
    do {
      ended = await expireLeases(this.#options.db, LEASES_PER_STATEMENT);
      this.endedLeases += ended;
      if (ended > 0) this.#options.log.info({ runs: ended }, 'leases ended without a report');
    } while (ended === LEASES_PER_STATEMENT && !this.#loop.stopped);
  }

  async #wakeDueStages(): Promise<void> {
    const { claims, db } = this.#options;
    const { stages } = claims;
    if (stages.length === 0) return;
    const { due, nextMs } = await findDueStages(db, stages);
    claims.look(due);
    // Whoever waits for the next one gets it when it is due, and not at the end of a second.
    if (nextMs !== undefined) this.#loop.againWithin(Math.max(INTERVAL_MIN_MS, Math.ceil(nextMs)));
  }
}
