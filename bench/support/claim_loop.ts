import { percentile, type Measures } from './stats.js';

/** Jobs are completed and replaced in batches of this size, so that little but the claims costs anything. */
export const REPLACED = 100;

export interface ClaimLoad {
  readonly inFlight: number;
  /** The loop ends with this many claims, or after so many seconds. */
  readonly claims: number;
  readonly seconds: number;
}

export interface Claimer<Job> {
  /** One claim of one job; undefined when there was none. */
  readonly claim: () => Promise<Job | undefined>;
  readonly complete: (jobs: readonly Job[]) => Promise<unknown>;
  readonly create: (jobs: number) => Promise<unknown>;
}

/** Claims jobs one by one over a backlog that stays as long as it was, but for `REPLACED` jobs more or less. */
export async function claimLoop<Job>(load: ClaimLoad, claimer: Claimer<Job>): Promise<Measures> {
  const started = performance.now();
  const deadline = started + load.seconds * 1000;
  const times: number[] = [];
  let held: Job[] = [];
  const replace = async (): Promise<void> => {
    const jobs = held;
    held = [];
    await Promise.all([claimer.complete(jobs), claimer.create(jobs.length)]);
  };
  const lane = async (): Promise<void> => {
    while (times.length < load.claims && performance.now() < deadline) {
      const before = performance.now();
      const job = await claimer.claim();
      if (job === undefined) continue;
      times.push(performance.now() - before);
      held.push(job);
      if (held.length >= REPLACED) await replace();
    }
  };
  await Promise.all(Array.from({ length: load.inFlight }, lane));
  if (held.length > 0) await replace();
  return claimMeasures(times, started);
}

/** @param times of each claim, in milliseconds */
export function claimMeasures(times: number[], started: number): Measures {
  if (times.length === 0) throw new Error('nothing was claimed');
  const sorted = times.sort((a, b) => a - b);
  return {
    count: sorted.length,
    p50Ms: percentile(sorted, 0.5),
    p99Ms: percentile(sorted, 0.99),
    perSecond: (sorted.length * 1000) / (performance.now() - started),
  };
}
