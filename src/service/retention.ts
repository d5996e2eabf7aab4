import type { Clock } from '../base/clock.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { Loop } from '../base/loop.js';
import { dropTrimmed, extendLog, trimLog } from '../store/log_partitions.js';
import type { Pool } from '../store/pool.js';
import { removeRuns } from '../store/sql/remove_runs.js';

const INTERVAL_MS = 60_000;
/** `lock_not_available`: somebody's transaction holds the table; the next time will do. */
const LOCK_NOT_AVAILABLE = '55P03';

export interface RetentionPolicy {
  /** How long the log is kept at least, in milliseconds; 0 for ever. */
  readonly logMs: number;
  /** How long finished runs are kept at least, in milliseconds; 0 for ever. */
  readonly runsMs: number;
  /** Revisions in one partition of the log: history goes in pieces of this size. */
  readonly partitionRevisions: number;
}

export interface RetentionOptions {
  readonly pool: Pool;
  readonly clock: Clock;
  readonly log: Logger;
  readonly policy: RetentionPolicy;
}

/** Makes room ahead of the log and drops what is older than the policy keeps, once a minute, on whichever server. */
export class Retention {
  readonly #options: RetentionOptions;
  readonly #loop: Loop;

  constructor(options: RetentionOptions) {
    this.#options = options;
    this.#loop = new Loop(options.clock, INTERVAL_MS, () => this.sweep());
  }

  start(): void {
    this.#loop.start();
  }

  stop(): Promise<void> {
    return this.#loop.stop();
  }

  /** Does everything that is due once. Failures are logged, and the next sweep tries again. */
  async sweep(): Promise<void> {
    const { pool, policy } = this.#options;
    await this.#step('extend', () =>
      extendLog(pool, BigInt(policy.partitionRevisions), LIMITS.partitionsAhead),
    );
    if (policy.logMs > 0) {
      await this.#step('trim', () => trimLog(pool, policy.logMs));
      await this.#step('drop', () => dropTrimmed(pool));
    }
    if (policy.runsMs > 0) await this.#step('remove', () => this.#removeRuns());
  }

  async #removeRuns(): Promise<void> {
    const { pool, policy, log } = this.#options;
    let removed: number;
    do {
      removed = await removeRuns(pool, policy.runsMs, LIMITS.removedRuns);
      if (removed > 0) log.info({ runs: removed }, 'finished runs removed');
    } while (removed === LIMITS.removedRuns && !this.#loop.stopped);
  }

  async #step(step: string, work: () => Promise<unknown>): Promise<void> {
    if (this.#loop.stopped) return;
    try {
      await work();
    } catch (error) {
      const { cause } = error as { cause?: { code?: unknown } };
      const busy = cause?.code === LOCK_NOT_AVAILABLE;
      this.#options.log[busy ? 'info' : 'warn'](
        { err: error, step },
        'retention could not do a step; trying again later',
      );
    }
  }
}
