import { edit, type Mutant } from './mutant.js';

const CLAIM_ANSWERS = 'dist/src/service/claim_answers.js';
const RUN_SIZE = 'dist/src/run/run_size.js';
const PAYLOADS = 'server/payloads';

const RELEASED = 'claims that turn out not to fit are released before the answer, at no attempt';
const ENCODED = 'an answer that cannot be encoded is told as not delivered, over every protocol';
const LARGE = 'ClaimNext gives what fits and leaves the rest, at no attempt';
const POISONED = 'a run that cannot be sent fails alone and for good (jobs)';
const REPEATED = 'a repeat shows each run as it was claimed, and releases nothing';

/** Ways to give answers that do not fit, or to lose what they held. */
export const ANSWER_MUTANTS: readonly Mutant[] = [
  {
    name: 'claims that do not fit are kept',
    edits: [edit(CLAIM_ANSWERS, 'await this.release(left, true)', 'void left')],
    testFile: PAYLOADS,
    caughtBy: RELEASED,
  },
  {
    name: 'claims that do not fit are given',
    edits: [edit('dist/src/run/claim_split.js', 'bytes + size > maxBytes', 'false')],
    testFile: PAYLOADS,
    caughtBy: RELEASED,
  },
  {
    name: 'a page has no end but its number of runs',
    edits: [edit(RUN_SIZE, 'bytes > maxBytes', 'false')],
    testFile: PAYLOADS,
    caughtBy: RELEASED,
  },
  {
    name: 'an answer that cannot be encoded counts as sent',
    edits: [
      edit(
        'dist/src/rpc/call.js',
        `this.undelivered();
                reject(this.signal.reason ?? error)`,
        'reject(this.signal.reason ?? error)',
      ),
    ],
    testFile: 'unit/rpc_answers',
    caughtBy: ENCODED,
  },
  {
    name: 'connect makes the text of an answer that nobody has tried',
    edits: [edit('dist/src/rpc/connect.js', 'if (!call.hasUndelivered)', 'if (true)')],
    testFile: 'unit/rpc_answers',
    caughtBy: ENCODED,
  },
  {
    name: 'stored sizes preselect nothing',
    edits: [edit('dist/src/store/sql/claim_runs.js', '(${FITS}) as fits', 'true as fits')],
    testFile: 'server/answers',
    caughtBy: LARGE,
  },
  {
    name: 'what is compressed is taken for what it is stored as',
    edits: [edit('dist/src/store/sql/claim_runs.js', '(packing.times - 1)', '0')],
    testFile: 'server/answers',
    caughtBy: LARGE,
  },
  {
    name: 'a run that cannot be sent is released, and claimed again',
    edits: [edit(CLAIM_ANSWERS, 'await this.#fail(unreadable)', 'await this.release(unreadable)')],
    testFile: PAYLOADS,
    caughtBy: POISONED,
  },
  {
    name: 'a number beyond a double is sent',
    edits: [edit(RUN_SIZE, 'Number.isFinite(value)', 'true')],
    testFile: 'unit/run_size',
    caughtBy: 'what cannot be encoded, or decoded by most clients, has no size',
  },
  {
    name: 'a watch sends what cannot be sent',
    edits: [edit('dist/src/watch/tail.js', 'page.events.map(fitEvent)', 'page.events')],
    testFile: PAYLOADS,
    caughtBy: 'lists, histories and watches go on past what cannot be sent',
  },
  {
    name: 'a repeat shows runs as they are now',
    edits: [edit('dist/src/store/sql/find_claims.js', 'claimed ?? (row &&', '(row &&')],
    testFile: PAYLOADS,
    caughtBy: REPEATED,
  },
];
