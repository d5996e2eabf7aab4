import { percentile } from './stats.js';

/** When a change was made, by the wall clock. */
export interface Made {
  readonly revision: number;
  readonly atMs: number;
}

/** What all streams received of the changes that were made. */
export interface Received {
  readonly deliveries: number;
  readonly messages: number;
  readonly bytes: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** By the wall clock. */
  readonly lastMs: number;
  readonly lost: number;
  readonly disordered: number;
}

/** Latencies are of so many streams at most, spread evenly; all streams are counted. */
const SAMPLES = 100;

/** Counts what streams receive. On a stream revisions only grow: anything else was delivered twice or out of order. */
export class Tally {
  readonly #counts: Int32Array;
  readonly #last: Float64Array;
  readonly #every: number;
  /** Of each sampled stream when it received which revision. */
  #times: Map<number, number>[] = [];
  #messages = 0;
  #bytes = 0;
  #disordered = 0;
  #lastMs = 0;

  constructor(private readonly streams: number) {
    this.#counts = new Int32Array(streams);
    this.#last = new Float64Array(streams);
    this.#every = Math.ceil(streams / SAMPLES);
    this.reset();
  }

  /** Forgets what was received, but not how far each stream is. */
  reset(): void {
    this.#counts.fill(0);
    this.#times = Array.from({ length: Math.ceil(this.streams / this.#every) }, () => new Map());
    [this.#messages, this.#bytes, this.#disordered] = [0, 0, 0];
  }

  message(bytes: number, atMs: number): void {
    this.#messages += 1;
    this.#bytes += bytes;
    this.#lastMs = atMs;
  }

  event(stream: number, revision: number, atMs: number): void {
    if (revision <= this.#last[stream]!) this.#disordered += 1;
    this.#last[stream] = revision;
    this.#counts[stream]! += 1;
    if (stream % this.#every === 0) this.#times[stream / this.#every]?.set(revision, atMs);
  }

  /** Whether every stream has as many events. */
  has(events: number): boolean {
    return this.#counts.every((count) => count >= events);
  }

  received(made: readonly Made[]): Received {
    const latencies = this.#times.flatMap((times) =>
      made.flatMap(({ revision, atMs }) => {
        const time = times.get(revision);
        return time === undefined ? [] : [time - atMs];
      }),
    );
    const sorted = Float64Array.from(latencies).sort();
    const deliveries = this.#counts.reduce((sum, count) => sum + count, 0);
    return {
      ...{ deliveries, messages: this.#messages, bytes: this.#bytes, lastMs: this.#lastMs },
      ...{ p50Ms: percentile(sorted, 0.5), p99Ms: percentile(sorted, 0.99), maxMs: percentile(sorted, 1) },
      lost: made.length * this.streams - deliveries,
      disordered: this.#disordered,
    };
  }
}
