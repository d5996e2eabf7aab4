import { edit, type Mutant } from './mutant.js';

const GUARD = 'dist/src/rpc/stream_guard.js';
const LOG_LIMIT = 'dist/src/base/log_limit.js';

/** Ways to let one connection, or a fault that comes with every call, hurt all others. */
export const FLOOD_MUTANTS: readonly Mutant[] = [
  {
    name: 'resets are not limited',
    edits: [edit(GUARD, 'this.#calmDown(session);', '')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'of a flood of resets Node sees no more than the limit, however much comes in one read',
  },
  {
    name: 'the first bytes of a connection are taken as they are',
    edits: [
      edit('dist/src/rpc/http.js', 'if (resetsIn(seen) > RPC_LIMITS.resetsUnserved.burst)', 'if (false)'),
    ],
    testFile: 'unit/rpc_flood',
    caughtBy: 'http: streams that are reset in the first bytes of a connection are never begun',
  },
  {
    name: 'a call that is given up in the middle of its message counts as one that waits',
    edits: [edit(GUARD, 'opened.isServed && !opened.isCut', 'opened.isServed')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'http: calls that are given up before their message is whole end the connection soon',
  },
  {
    name: 'grpc-js is given all metadata',
    edits: [edit('dist/src/rpc/grpc.js', 'refusal, select }', 'refusal }')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'grpc: metadata that nobody reads is not kept while a call waits',
  },
  {
    name: 'a connection whose request is too late goes on',
    edits: [edit('dist/src/rpc/connect_body.js', 'if (request.httpVersionMajor === 1)', 'if (false)')],
    testFile: 'unit/rpc_flood',
    caughtBy:
      'HTTP/1.1: a body that does not come to its end in time has one answer, and its connection ends',
  },
  {
    name: 'a connection whose request comes in too many pieces goes on',
    edits: [edit('dist/src/rpc/budget.js', 'connection?.destroy()', 'undefined')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'grpc: a request in too many pieces is refused, and its connection ends',
  },
  {
    name: 'connections may take all files of the process',
    edits: [edit('dist/src/rpc/connection_limit.js', '(Number(files) - OTHER_FILES) / 2', 'Number(files)')],
    testFile: 'unit/connection_limit',
    caughtBy: 'two listeners never take all files of the process',
  },
  {
    name: 'a connection over its limit is read to the end',
    edits: [edit(GUARD, 'session.settings({ maxConcurrentStreams: 0 });', '{ }')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'of a flood of resets Node sees no more than the limit, however much comes in one read',
  },
  {
    name: 'a connection has all its turns at once',
    edits: [
      edit(
        'dist/src/rpc/turns.js',
        'this.#nextRound.push(line);\n        else',
        'this.#round.push(line);\n        else',
      ),
    ],
    testFile: 'unit/rpc_flood',
    caughtBy: 'each connection has its turn, however much another has sent',
  },
  {
    name: 'requests that never end are kept',
    edits: [edit(GUARD, 'closeLater(stream, constants.NGHTTP2_CANCEL);', '')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'a request that takes too long to arrive is closed; one that waits for its answer is not',
  },
  {
    name: 'HTTP/1.1 requests are taken without limit',
    edits: [edit('dist/src/rpc/connections.js', 'connection.active > RPC_LIMITS.requestsPipelined', 'false')],
    testFile: 'unit/rpc_flood',
    caughtBy: 'HTTP/1.1: fifty requests in one write are answered in order, thousands end the connection',
  },
  {
    name: 'every line of a kind is written',
    edits: [edit(LOG_LIMIT, 'kind.lines < LIMITS.logLines', 'true')],
    testFile: 'unit/log',
    caughtBy:
      'of ten thousand lines of one kind a few are written, and one that says how many more there were',
  },
  {
    name: 'an internal error that is not logged has an id of its own',
    edits: [edit('dist/src/base/internal_error.js', 'return known;', 'return id;')],
    testFile: 'unit/log',
    caughtBy: 'each id of an internal error that was given out is in the log',
  },
  {
    name: 'lines wait for a reader without limit',
    edits: [
      edit('dist/src/base/log_sink.js', 'this.#pendingBytes + bytes > LIMITS.logPendingBytes', 'false'),
    ],
    testFile: 'unit/log',
    caughtBy: 'a reader that stands still costs a bounded number of lines, and hears how many it has lost',
  },
];
