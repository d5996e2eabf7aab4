/** What makes a red run of the tests mean something. */
import { edit, type Mutant } from './mutant.js';

const SEED = 'dist/test/support/seed.js';
const WAIT = 'dist/test/support/wait.js';
const testFile = 'unit/verdicts';

export const VERDICT_MUTANTS: readonly Mutant[] = [
  {
    name: 'properties have a seed of the moment',
    edits: [edit(SEED, 'fc.configureGlobal({ seed: SEED });', '')],
    testFile,
    caughtBy: 'properties try the same values each time',
  },
  {
    name: 'a failed property does not say how it is had again',
    edits: [edit(SEED, 'if (!details.failed)', 'if (true)')],
    testFile,
    caughtBy: 'a failure says how it is had again',
  },
  {
    name: 'no time is too long',
    edits: [edit(WAIT, 'tookMs <= withSlack(promisedMs)', 'true')],
    testFile,
    caughtBy: 'a time is judged with the slack, and a wait ends',
  },
];
