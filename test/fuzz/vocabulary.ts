/**
 * What the generator knows of the server under test: ids and tokens of runs that exist, names that mean something. Their
 * values differ from run to run, their number does not, so that an input is the same in structure when it is repeated.
 */
export interface Vocabulary {
  /** Runs that are held, each with the token that holds it. */
  readonly claims: readonly { readonly runId: string; readonly leaseToken: string }[];
  /** Runs that wait, and some that have ended. */
  readonly runIds: readonly string[];
  readonly resumeTokens: readonly string[];
  readonly pageTokens: readonly string[];
  readonly pipelines: readonly string[];
  readonly stages: readonly string[];
  readonly statuses: readonly string[];
}

/** What every run that the fuzzer makes is labeled with, and no other. */
export const FENCE = { key: 'fuzz', value: 'yes' } as const;

/** For tests of the generator, which need no server. */
export const MADE_UP: Vocabulary = {
  claims: [{ runId: '01a22450-3c76-707e-8d84-213f33e259c9', leaseToken: 'AAAAAAAAAAEAAAAAAAAAAAAAAAAAAAAA' }],
  runIds: ['01a22450-3c76-707e-8d84-213f33e259ca', '01a22450-3c76-707e-8d84-213f33e259cb'],
  resumeTokens: ['bm90IGEgdG9rZW4'],
  pageTokens: ['WyIxIiwiMiJd'],
  pipelines: ['fuzz_0', 'ci'],
  stages: ['build', 'ship'],
  statuses: ['queued', 'building', 'built', 'shipping', 'shipped', 'error', 'canceled'],
};
