import { edit, type Mutant } from './mutant.js';

const MEASURE = 'dist/src/rpc/decode/measure.js';
const BUDGET = 'dist/src/rpc/budget.js';
const INTAKE = 'dist/src/rpc/intake.js';
const VIOLATIONS = 'dist/src/base/violations.js';

const everyWay = (name: string): string => `${name}: is refused by every way it can come`;

/** Ways to let one request hurt others, or to lose a key of it. */
export const REQUEST_MUTANTS: readonly Mutant[] = [
  ...[
    {
      name: 'values of a request are not counted',
      edits: [edit(MEASURE, 'this.#values <= LIMITS.requestValues', 'true')],
      caughtBy: everyWay('fields that nobody knows'),
    },
    {
      name: 'values of an object are not counted',
      edits: [edit(MEASURE, 'count > LIMITS.structValues', 'false')],
      caughtBy: everyWay('an object with too much in it'),
    },
    {
      name: 'items of a list are not counted',
      edits: [edit(MEASURE, 'this.violations.add(path, ', 'void (')],
      caughtBy: everyWay('empty labels'),
    },
    {
      name: 'every violation is kept',
      edits: [
        edit(VIOLATIONS, 'this.leftOut.length === 0 && this.kept.length >= LIMITS.violations', 'false'),
        edit(VIOLATIONS, 'if (this.kept.length >= LIMITS.violations)', 'if (false)'),
        edit('dist/src/base/errors.js', 'violations.slice(0, LIMITS.violations)', 'violations'),
      ],
      caughtBy: everyWay('wrong numbers under a long key'),
    },
    {
      name: 'a GET has any length',
      edits: [edit('dist/src/rpc/connect_body.js', 'if (bytes.length <= limit)', 'if (true)')],
      caughtBy: 'a GET has its message as it is, and at most 16 KiB of it',
    },
    {
      name: 'what was refused for the budget over gRPC keeps its part of it',
      edits: [
        edit(
          'dist/src/rpc/grpc_intercept.js',
          'inner.decoder = undefined;\n        held.release();',
          'inner.decoder = undefined;',
        ),
      ],
      caughtBy:
        'bytes of requests that never end have a budget, and make room for others when it is full, by either port',
    },
    {
      name: 'bytes of a message that is not whole have no budget over gRPC',
      edits: [edit('dist/src/rpc/grpc_intercept.js', 'held.add(data.length)', 'held.add(0)')],
      caughtBy:
        'bytes of requests that never end have a budget, and make room for others when it is full, by either port',
    },
  ].map((mutant) => ({ ...mutant, testFile: 'unit/rpc_limits' })),
  ...[
    {
      name: 'large requests are decoded at the same time',
      edits: [edit(INTAKE, 'this.#last = done.then(rest, rest)', 'void rest')],
      caughtBy: 'large requests take turns in their order, with a turn of the event loop between two',
    },
    {
      name: 'huge requests have no bound together',
      edits: [
        edit('dist/src/base/room.js', 'this.#used > 0 && this.#used + first.size > this.size', 'false'),
      ],
      caughtBy: 'of huge requests only as many are with the service as fit, and large ones pass by',
    },
    {
      name: 'a large request keeps its room for as long as it waits',
      edits: [edit(INTAKE, 'setTimeout(free, this.roomMs).unref()', 'undefined')],
      caughtBy: 'a large request that waits holds up other large ones for a second at most',
    },
    {
      name: 'long pages are read all at once',
      edits: [edit(INTAKE, 'weight <= RPC_LIMITS.lightAnswerBytes', 'true')],
      caughtBy: 'of requests for long pages only as many are with the service as fit, and short ones pass by',
    },
    {
      name: 'a long page in a large request is read beside all others',
      edits: [edit(INTAKE, '(request) => this.#answer(request, format, signal, answer)', 'answer')],
      caughtBy: 'of requests for long pages only as many are with the service as fit, and short ones pass by',
    },
  ].map((mutant) => ({ ...mutant, testFile: 'unit/intake' })),
  ...[
    {
      name: 'bytes of requests have no budget',
      edits: [edit(BUDGET, 'this.#heldBytes + bytes > this.size', 'false')],
      caughtBy: 'bytes have a budget, and beyond it a request is told to come again',
    },
    {
      name: 'a small request needs a part of the budget',
      edits: [edit(BUDGET, 'this.#cost <= RPC_LIMITS.lightRequestBytes', 'false')],
      caughtBy: 'a small request is let in when the budget is full',
    },
    {
      name: 'a piece of a request takes no more than its bytes',
      edits: [edit(BUDGET, 'bytes + PIECE_BYTES', 'bytes')],
      caughtBy: 'a request counts by its pieces too',
    },
    {
      name: 'crumbs of a request are as good as other pieces',
      edits: [edit(BUDGET, 'mean < RPC_LIMITS.crumbBytes', 'false')],
      caughtBy: 'a request may not come in too many pieces, and in fewer where they are small',
    },
    {
      name: 'requests that never end keep their part of the budget',
      edits: [edit(BUDGET, 'rate >= least', 'true')],
      caughtBy: 'once it is full, the slowest makes room, and who comes fast or is whole does not',
    },
    {
      name: 'a request that waits for its turn makes room for others',
      edits: [edit(BUDGET, 'this.#isWhole ||', '')],
      caughtBy: 'once it is full, the slowest makes room, and who comes fast or is whole does not',
    },
  ].map((mutant) => ({ ...mutant, testFile: 'unit/budget' })),
  {
    name: 'whoever takes long keeps others out of a room for as long',
    edits: [edit('dist/src/base/room.js', 'setTimeout(free, this.mostMs).unref()', 'undefined')],
    testFile: 'db/get_run',
    caughtBy: 'lets others go on when a large run takes long to be read',
  },
  {
    name: 'large runs are read all at once',
    edits: [edit('dist/src/service/get_run.js', 'room.use(1,', 'room.use(0,')],
    testFile: 'db/get_run',
    caughtBy: 'reads large runs a few at a time, and small ones at once',
  },
  {
    name: 'an entry is assigned whatever its key is called',
    edits: [edit('dist/src/rpc/decode/plan.js', "if (key !== '__proto__')", 'if (true)')],
    testFile: 'server/odd_keys',
    caughtBy: 'of a filter never select more than they say',
  },
  {
    name: 'the last of two members of one name counts',
    edits: [edit('dist/src/rpc/decode/json.js', 'countJson(json) === counted', 'true')],
    testFile: 'unit/rpc_decode',
    caughtBy: 'that names a member twice is refused: what the first asked for would not be heard',
  },
];
