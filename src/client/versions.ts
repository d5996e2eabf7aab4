/**
 * How many open and ended runs are remembered, about 20 MB together. When there are more, those that were silent the
 * longest are forgotten, and the next change of one of them is taken as it comes.
 */
const OPEN_RUNS_MAX = 100_000;
const ENDED_RUNS_MAX = 10_000;

/** The last version of each run that was seen, as far as there is room. */
export class Versions {
  readonly #open = new Map<string, bigint>();
  readonly #ended = new Map<string, bigint>();

  /** Runs that had not ended at their last version. */
  get openCount(): number {
    return this.#open.size;
  }

  get(runId: string): bigint | undefined {
    return this.#open.get(runId) ?? this.#ended.get(runId);
  }

  set(runId: string, version: bigint, hasEnded: boolean): void {
    // A map keeps the order of insertion: taken out and put in again, a run is the youngest.
    this.#open.delete(runId);
    this.#ended.delete(runId);
    if (hasEnded) put(this.#ended, runId, version, ENDED_RUNS_MAX);
    else put(this.#open, runId, version, OPEN_RUNS_MAX);
  }

  clear(): void {
    this.#open.clear();
    this.#ended.clear();
  }
}

function put(map: Map<string, bigint>, key: string, value: bigint, max: number): void {
  map.set(key, value);
  if (map.size <= max) return;
  for (const oldest of map.keys()) {
    map.delete(oldest);
    return;
  }
}
