import { percentile, type Measures } from './stats.js';

export interface Load {
  readonly inFlight: number;
  /** No call begins later than this; those that are under way are waited for. */
  readonly seconds: number;
}

/** What was done, and how much of it in a second of the time until the last of it was answered. */
export interface Counted extends Measures {
  readonly count: number;
  readonly perSecond: number;
  /** How much was sent, where not all of it is counted. */
  readonly sent?: number;
}

/**
 * Closed loop: as many calls under way as `inFlight` says, each followed by the next of its lane.
 *
 * @param call resolves with false when there is nothing left to do, which ends its lane and does not count
 */
export async function closedLoop(
  { inFlight, seconds }: Load,
  call: (lane: number) => Promise<boolean>,
): Promise<Counted> {
  const started = performance.now();
  const deadline = started + seconds * 1000;
  const times: number[] = [];
  const lane = async (index: number): Promise<void> => {
    while (performance.now() < deadline) {
      const before = performance.now();
      if (!(await call(index))) return;
      times.push(performance.now() - before);
    }
  };
  await Promise.all(Array.from({ length: inFlight }, (_, index) => lane(index)));
  const elapsed = (performance.now() - started) / 1000;
  if (times.length === 0) throw new Error('no call did anything');
  const sorted = times.sort((a, b) => a - b);
  return {
    count: sorted.length,
    perSecond: sorted.length / elapsed,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
  };
}

/**
 * Work in batches, as many under way as `inFlight` says, until `total` items are done.
 *
 * @param work takes the size of a batch and resolves with how many it did; fewer only when there were no more
 */
export async function inBatches(
  { total, batch, inFlight }: { total: number; batch: number; inFlight: number },
  work: (size: number) => Promise<number>,
): Promise<Counted> {
  const started = performance.now();
  let [taken, done] = [0, 0];
  const lane = async (): Promise<void> => {
    while (taken < total) {
      const size = Math.min(batch, total - taken);
      taken += size;
      const did = await work(size);
      done += did;
      // Another lane has what is missing here, unless that gives it back.
      taken -= size - did;
      if (did === 0) return;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, lane));
  if (done !== total) throw new Error(`${done} of ${total} were done`);
  return rate(done, started);
}

/** @param started by `performance.now` */
export function rate(count: number, started: number): Counted {
  return { count, perSecond: count / ((performance.now() - started) / 1000) };
}

/** Waits a little; benchmarks run on the clock, unlike tests. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
