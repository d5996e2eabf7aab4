/**
 * Chance in tests comes from here. The seed is fixed, so that `npm test` does the same each time, and a failure can be had
 * again: it says how. By hand, `BATON_TEST_SEED=random npm test` takes a seed of its own.
 */
import { basename, dirname } from 'node:path';
import fc from 'fast-check';

/** Of `npm test`. Any other is as good. */
const FIXED_SEED = 1;
const SEED_MAX = 1_000_000;

/** What `BATON_TEST_SEED` says: nothing, a number, or `random`. */
export function chooseSeed(text = ''): number {
  if (text === '') return FIXED_SEED;
  const seed = text === 'random' ? Math.floor(Math.random() * SEED_MAX) : Number(text);
  if (!Number.isInteger(seed))
    throw new Error(`BATON_TEST_SEED is a whole number or "random", not "${text}"`);
  return seed;
}

export const SEED = chooseSeed(process.env['BATON_TEST_SEED']);

/** Runs a file of tests alone, with the same seed. */
export function commandFor(file: string, seed: number): string {
  const name = `${basename(dirname(file))}/${basename(file).replace(/\.[jt]s$/, '')}`;
  return `BATON_TEST_SEED=${seed} npm test -- ${name}`;
}

const thisFile = process.argv[1] ?? '';

/** Runs what depends on the seed; its failure says how to have it again. */
export async function seeded<T>(work: (seed: number) => Promise<T>): Promise<T> {
  try {
    return await work(SEED);
  } catch (error) {
    throw new Error(`again: ${commandFor(thisFile, SEED)}`, { cause: error });
  }
}

fc.configureGlobal({ seed: SEED });
fc.installGlobalPlugin(() => ({
  onAllRunsComplete: (details) => {
    if (!details.failed) return;
    const message = `${fc.defaultReportMessage(details)}\nagain: ${commandFor(thisFile, details.seed)}`;
    throw new Error(message, { cause: details.errorInstance });
  },
}));

export { default as fc } from 'fast-check';
