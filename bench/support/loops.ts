import { percentile, type Measures } from './stats.js';

export interface Load {
  readonly inFlight: number;
  /** No call begins later than this; those that are under way are waited for. */
  readonly seconds: number;
}

/** `perSecond` counts the calls that did something, over the time until the last one was answered. */
export interface Counted extends Measures {
  readonly calls: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
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
    calls: sorted.length,
    perSecond: sorted.length / elapsed,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
  };
}

/** Waits a little; benchmarks run on the clock, unlike tests. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
