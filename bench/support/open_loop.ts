import { pause } from './loops.js';
import { percentile, type Measures } from './stats.js';

/** What was sent in time and never came gets this long, then it counts as lost. */
const ARRIVAL_TIMEOUT_MS = 60_000;
const TICK_MS = 1;

/**
 * Open loop: item k is due at k / rate, whatever became of those before, and its latency counts from when it was due.
 * So an item that could not be sent in time is late, and a system that stalls cannot hide it (coordinated omission).
 */
export class OpenLoop {
  readonly #rate: number;
  readonly #total: number;
  readonly #measuredFrom: number;
  readonly #arrivals: Float64Array;
  #arrived = 0;
  #started = 0;
  #failure: Error | undefined;

  /** @param load the items of the first `warmUp` seconds are sent and not measured */
  constructor({ rate, seconds, warmUp }: { rate: number; seconds: number; warmUp: number }) {
    this.#rate = rate;
    this.#total = Math.ceil(rate * (warmUp + seconds));
    this.#measuredFrom = Math.floor(rate * warmUp);
    this.#arrivals = new Float64Array(this.#total);
  }

  /** Notes that item `index` has come; once for each. */
  arrived(index: number): void {
    if (this.#arrivals[index] !== 0) throw new Error(`item ${index} came twice`);
    this.#arrivals[index] = performance.now();
    this.#arrived += 1;
  }

  /** Sends all and waits until all have come. */
  async run(send: (index: number) => Promise<unknown>): Promise<Measures> {
    this.#started = performance.now();
    const fail = (error: unknown): void => {
      this.#failure ??= error instanceof Error ? error : new Error(String(error));
    };
    for (let sent = 0; sent < this.#total;) {
      const due = Math.min(
        this.#total,
        Math.floor(((performance.now() - this.#started) / 1000) * this.#rate) + 1,
      );
      for (; sent < due; sent += 1) send(sent).catch(fail);
      await pause(TICK_MS);
    }
    const deadline = performance.now() + ARRIVAL_TIMEOUT_MS;
    while (this.#arrived < this.#total && this.#failure === undefined && performance.now() < deadline)
      await pause(TICK_MS);
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#arrived < this.#total)
      throw new Error(`${this.#total - this.#arrived} of ${this.#total} never came`);
    return this.#measures();
  }

  #measures(): Measures {
    const measured = this.#arrivals.subarray(this.#measuredFrom);
    const latencies = measured
      .map((at, index) => at - this.#started - ((this.#measuredFrom + index) * 1000) / this.#rate)
      .sort();
    const first = this.#started + (this.#measuredFrom * 1000) / this.#rate;
    return {
      count: latencies.length,
      sent: this.#total,
      p50Ms: percentile(latencies, 0.5),
      p99Ms: percentile(latencies, 0.99),
      maxMs: percentile(latencies, 1),
      perSecond: (latencies.length * 1000) / (Math.max(...measured) - first),
    };
  }
}
