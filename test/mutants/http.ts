import { edit, type Mutant } from './mutant.js';

const GATE = 'dist/src/rpc/gate.js';
const GATE_TEST = 'unit/rpc_gate';
const CLIENTS_TEST = 'unit/rpc_clients';

/** Ways to let pages of others in, to keep what real clients need from them, and to hold streams back. */
export const HTTP_MUTANTS: readonly Mutant[] = [
  {
    name: 'every Host is taken for ours',
    edits: [edit(GATE, '|| hosts.has(name)', '|| true')],
    testFile: GATE_TEST,
    caughtBy: 'a request has to name this server by one of its names',
  },
  {
    name: 'of the authority and the Host only one is looked at',
    edits: [
      edit(
        GATE,
        `[headers.get(':authority'), headers.get('host')]`,
        `[headers.get(':authority') ?? headers.get('host')]`,
      ),
    ],
    testFile: GATE_TEST,
    caughtBy: 'over HTTP/2 the authority counts, and a Host beside it',
  },
  {
    name: 'another port of localhost counts as our own',
    edits: [edit(GATE, `site === 'none' ||`, `site === 'none' || site === 'same-site' ||`)],
    testFile: GATE_TEST,
    caughtBy: 'a page of another origin is let in by its name only',
  },
  {
    name: 'without fetch metadata every Origin passes',
    edits: [edit(GATE, '(origin === undefined || isOwnOrigin(origin, headers))', 'true')],
    testFile: GATE_TEST,
    caughtBy: 'where a browser sends no fetch metadata, Origin decides',
  },
  {
    name: 'a link opens whatever there is',
    edits: [edit(GATE, 'isLink && LINKED_PATHS.has(request.path)', 'isLink')],
    testFile: GATE_TEST,
    caughtBy: 'a link from elsewhere opens the page, and nothing that holds data',
  },
  {
    name: 'the gate is asked after the routes',
    edits: [
      edit(
        'dist/src/rpc/http.js',
        'if (admit(gate, request, response))',
        'dispatch(request, response); if (false)',
      ),
    ],
    testFile: GATE_TEST,
    caughtBy: 'nothing is read of a request that is refused, over HTTP/1.1 and HTTP/2',
  },
  {
    name: 'an empty frame behind the headers of a refusal',
    edits: [edit('dist/src/rpc/refusals.js', 'response.statusCode = 200;', 'response.writeHead(200);')],
    testFile: CLIENTS_TEST,
    caughtBy: 'an unknown method over gRPC is told in headers alone, over gRPC-Web too',
  },
  {
    name: 'proxies may hold streams back',
    edits: [edit('dist/src/rpc/node_http.js', `response.setHeader('x-accel-buffering', 'no');`, '')],
    testFile: CLIENTS_TEST,
    caughtBy: 'every stream tells proxies to hold nothing back, and no answer is for a cache',
  },
  {
    name: 'the answer is dropped when the client has closed its side',
    edits: [edit('dist/src/rpc/http.js', 'httpAllowHalfOpen: true', 'httpAllowHalfOpen: false')],
    testFile: CLIENTS_TEST,
    caughtBy: 'a client that closes its side after its request gets the answer, however long it takes',
  },
  {
    name: 'a client that closes its side is believed to be there',
    edits: [edit('dist/src/rpc/http.js', 'watchHalfClose(request, response);', '')],
    testFile: CLIENTS_TEST,
    caughtBy: 'a client that has gone is found out, although it closes in the same way',
  },
  {
    name: 'a GET without a message is one with an empty message',
    edits: [edit('dist/src/rpc/connect_get.js', `bad('message', 'is required')`, 'undefined')],
    testFile: CLIENTS_TEST,
    caughtBy: 'a Connect GET is refused with all that is wrong with its query',
  },
  {
    name: 'the end of a request without a body is lost while it waits for its turn',
    edits: [edit('dist/src/rpc/stream_guard.js', `stream.emit('end');`, '{}')],
    testFile: CLIENTS_TEST,
    caughtBy: 'a request without a body is answered, also when its end comes in a frame of its own',
  },
];
