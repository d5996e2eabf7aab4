import { LIMITS } from '../../src/base/limits.js';
import { systemClock } from '../../src/base/clock.js';
import { Retention } from '../../src/service/retention.js';
import { createPool, type Pool } from '../../src/store/pool.js';
import {
  AFTERMATH_MS,
  Faults,
  NETWORK_FAULTS,
  PROCESS_FAULTS,
  type FaultContext,
} from '../support/chaos_faults.js';
import { silent } from '../support/database.js';
import { withSlack } from '../support/wait.js';
import { stall, type StallReport } from './stalled.js';
import { truncateDuringCatchUp, type TruncationReport } from './truncation.js';

const STREAM_FAULTS = ['truncate log', 'stall own connection', 'stall shared connection'] as const;

/** The kinds of fault by lane. Lanes run side by side, so faults of different lanes meet. */
export const LANES: readonly (readonly string[])[] = [PROCESS_FAULTS, NETWORK_FAULTS, STREAM_FAULTS];
export const ALL_KINDS: readonly string[] = LANES.flat();

/** A healthy stream has a bookmark every second. */
const STALL_SILENCE_MS = 3000;

/** The faults that only streams know, beside all others. */
export class StreamFaults extends Faults {
  readonly stalls: StallReport[] = [];
  readonly truncations: TruncationReport[] = [];
  readonly #partitionRevisions: number;

  /** @param context how large the pieces are in which history goes, beside what every fault needs */
  constructor(context: FaultContext & { readonly partitionRevisions: number }) {
    super(context);
    this.#partitionRevisions = context.partitionRevisions;
  }

  protected override needsHealth(kind: string): boolean {
    return (STREAM_FAULTS as readonly string[]).includes(kind);
  }

  protected override async make(kind: string): Promise<void> {
    switch (kind) {
      case 'truncate log':
        return this.#truncate();
      case 'stall own connection':
        return this.#stall(false);
      case 'stall shared connection':
        return this.#stall(true);
      default:
        return super.make(kind);
    }
  }

  async #truncate(): Promise<void> {
    const { postgres, database, random, signal } = this.context;
    const pool: Pool = createPool({ databaseUrl: postgres.url(database), connections: 2, log: silent });
    try {
      // Streams that were away for a moment should find their place again; only who catches up is hit.
      const policy = { logMs: 2000, runsMs: 0, partitionRevisions: this.#partitionRevisions };
      const retention = new Retention({ pool, clock: systemClock, log: silent, policy });
      const report = await truncateDuringCatchUp(pool, retention, random.pick(this.context.servers), signal);
      this.truncations.push(report);
    } finally {
      await pool.close();
    }
  }

  async #stall(shared: boolean): Promise<void> {
    const from = Date.now();
    const report = await stall(this.server(), shared, 4000, (ms) => this.rest(ms));
    this.stalls.push(report);
    // The process's memory is reported too, but garbage makes up most of it.
    if ((report.heldPerStream ?? 0) > LIMITS.streamBytes)
      this.problems.push(`the server held ${Math.round(report.heldPerStream ?? 0)} bytes for a stream`);
    // Beside other faults the healthy stream has reasons of its own to be silent.
    const alone = this.intervals.filter((fault) => fault.to + AFTERMATH_MS > from).length === 1;
    if (alone && report.longestSilenceMs > withSlack(STALL_SILENCE_MS))
      this.problems.push(`a stream beside stalled ones was silent for ${report.longestSilenceMs} ms`);
  }
}
