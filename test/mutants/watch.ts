import { edit, type Mutant } from './mutant.js';

const HUB = 'dist/src/watch/hub.js';
const TAIL = 'dist/src/watch/tail.js';
const SUBSCRIPTION = 'dist/src/watch/subscription.js';
const HANDOVER = 'dist/src/watch/handover.js';
const SHARED_PAGES = 'dist/src/watch/shared_pages.js';
const CALL_ABORT = `call.signal.addEventListener('abort', `;

const TOKENS = 'every token on the way through a page resumes with exactly what follows';
const ONCE = 'a stream gets each event once, whether from the log or from the hub';

const MUTANTS: readonly (Omit<Mutant, 'testFile'> & { readonly testFile?: string })[] = [
  {
    name: 'cursor on a plain sequence without the lock',
    edits: [],
    functionEdit: {
      name: 'baton.runs_append_event',
      from: 'perform pg_catalog.pg_advisory_xact_lock(4773551914087416173);',
      to: '',
    },
    caughtBy: 'a commit that took its revision early is not overtaken',
  },
  {
    name: 'no read after LISTEN',
    edits: [
      edit(
        'dist/src/watch/listener.js',
        'this.#options.onConnect();\n        this.#options.onRing();',
        'this.#options.onConnect();',
      ),
    ],
    caughtBy: 'what was committed before LISTEN took effect is read',
  },
  {
    name: 'a LISTEN connection that says nothing is trusted',
    edits: [
      edit(
        'dist/src/watch/listener.js',
        'this.#lose(client, new Error(`no echo within ${ECHO_TIMEOUT_MS} ms`))',
        'undefined',
      ),
    ],
    caughtBy: 'a LISTEN connection that went half open is found out and replaced',
  },
  {
    name: 'a bookmark taken before the fan-out',
    edits: [
      edit(
        SUBSCRIPTION,
        `if (this.#queue.length > 0 || this.#state === 'ended')`,
        `if (this.#state === 'ended')`,
      ),
    ],
    caughtBy: 'a bookmark that is due waits for what was just fanned out',
  },
  {
    name: 'changes count as bookmarks',
    edits: [
      edit(
        SUBSCRIPTION,
        'return this.#hub.clock.now() >= this.#markedAt + this.#bookmarkMs;',
        'return this.#hub.clock.now() >= this.#lastSentAt + this.#bookmarkMs;',
      ),
    ],
    caughtBy: 'changes that never stop keep no bookmark back, and it stands where they have come to',
  },
  {
    name: 'a bookmark waits for the log',
    edits: [edit(SUBSCRIPTION, ': markTime);', ': markTime + 3600000);')],
    caughtBy: 'a stream that catches up has its bookmarks also while the log does not answer',
  },
  {
    // One notification, one page: two commits, or a large one, share a single notification.
    name: 'the notification used as data',
    edits: [edit(TAIL, 'if (step !== MORE)\n                return found;', 'return found;')],
    caughtBy: 'one doorbell is enough for any number of events',
  },
  {
    name: 'cleanup in finally only',
    edits: [
      edit('dist/src/rpc/watch_loop.js', `${CALL_ABORT}() => this.close());`, 'void call;'),
      edit('dist/src/service/watch_runs.js', `${CALL_ABORT}onAbort);`, 'void onAbort;'),
    ],
    caughtBy: 'a reader that goes away while its write is blocked leaves nothing behind',
  },
  {
    name: 'a filter applied after the token moved',
    edits: [
      edit(
        SUBSCRIPTION,
        'const { messages, sizes } = this.#hub.messages(this.view, page, this.#cursor);',
        'this.#cursor = page.through;\n        const { messages, sizes } = this.#hub.messages(this.view, page, this.#cursor);',
      ),
    ],
    caughtBy: ONCE,
  },
  {
    name: 'a token that is ahead of the message it comes with',
    edits: [edit(HUB, 'isLast ? page.through : (events.at(-1)?.revision ?? from)', 'page.through')],
    caughtBy: TOKENS,
  },
  {
    name: 'one event skipped',
    edits: [edit(HUB, 'event.revision > from && matchesEvent', 'event.revision > from + 1n && matchesEvent')],
    caughtBy: ONCE,
  },
  {
    name: 'retention by time instead of revision',
    edits: [edit('dist/src/store/log_partitions.js', 'select e.append_time <', 'select e.update_time <')],
    caughtBy: 'a change that is committed late is kept as long as any other',
  },
  {
    name: 'history that is gone is skipped silently',
    edits: [edit(TAIL, '    assertKept(after, page.oldestRevision);\n', '    void page.oldestRevision;\n')],
    caughtBy: 'a stream whose history was dropped while it caught up is told',
  },
  {
    name: 'a tail whose history is gone ends everybody',
    edits: [
      edit(
        TAIL,
        'this.#options.hub.disperse();',
        'this.#options.hub.endAll(error);\n                    this.#options.hub.setPosition(undefined);',
      ),
    ],
    caughtBy: 'a tail whose history was dropped ends who needs that history, and nobody else',
  },
  {
    name: 'a state that stands still keeps its connection from others',
    edits: [edit('dist/src/watch/snapshots.js', 'reader.giveUp();', 'void reader;')],
    testFile: 'server/streams',
    caughtBy: 'readers that stand still in a state keep neither calls nor other states waiting',
  },
  {
    name: 'a state holds a whole page for its reader',
    edits: [edit('dist/src/watch/state_stream.js', 'if (count > 0 && this', 'if (false && this')],
    testFile: 'server/streams',
    caughtBy: 'a stalled stream holds at most 256 KiB: in its state, with long messages',
  },
  {
    name: 'a stream ahead of the tail is given the whole page',
    edits: [edit(HUB, 'from > page.after ? this.messages(', 'false ? this.messages(')],
    caughtBy: 'a stream that joins ahead of the tail is not given the start of its next page again',
  },
  {
    name: 'a gap before the remembered pages is not seen',
    edits: [edit(HUB, 'page.after <= from && from < page.through', 'from < page.through')],
    caughtBy: 'a stream from before the remembered pages reads the log instead of jumping to them',
  },
  {
    name: 'a page without payloads is published to whom wants them',
    edits: [edit(TAIL, `if (hub.demand === 'payload' && !payload)`, 'if (false)')],
    caughtBy: 'a page that was read without payloads is read again when a stream wants them meanwhile',
  },
  {
    name: 'the demand is not looked at again after the work was counted',
    edits: [
      edit(
        TAIL,
        `if (hub.demand !== 'none')\n                return MORE;\n            hub.setPosition(through);`,
        'hub.setPosition(through);',
      ),
    ],
    caughtBy: 'a stream that becomes live while work is counted gets the events that were counted',
  },
  {
    name: 'the refused page counts as covered',
    edits: [
      edit(
        SUBSCRIPTION,
        'if (page.after > this.#cursor)\n                this.#cursor = page.after;',
        'this.#cursor = page.through;',
      ),
    ],
    caughtBy: 'a live stream without room goes on from the page that it refused',
  },
  ...[
    {
      name: 'each stream that catches up reads the log by itself',
      edits: [edit(SHARED_PAGES, 'if (shared === undefined)', 'if (true)')],
      caughtBy: 'are read once for those that ask at the same time, and soon after',
    },
    {
      name: 'where the log ended is told to whoever asks later',
      edits: [edit(SHARED_PAGES, 'if (events.length === 0)', 'if (false)')],
      caughtBy: 'are not kept where the log ended, which is true for the moment only',
    },
    {
      name: 'what one stream is refused is refused to others',
      edits: [
        edit(
          SHARED_PAGES,
          `error instanceof BatonError && error.reason === 'DATABASE_UNAVAILABLE'`,
          'error instanceof BatonError',
        ),
      ],
      caughtBy: 'are not refused to one because they were refused to another',
    },
    {
      name: 'pages are kept however old they are',
      edits: [edit(SHARED_PAGES, 'if (until > now)', 'if (true)')],
      caughtBy: 'are read anew when they are older, and nothing is kept of them meanwhile',
    },
  ].map((mutant) => ({ ...mutant, testFile: 'unit/shared_pages' })),
  ...[
    {
      name: 'a writer without room is handed more',
      edits: [
        edit(HANDOVER, 'if (!this.#take(message))\n                this.end();', 'this.#take(message);'),
      ],
      caughtBy: 'has no more without room, and goes on with the very next one',
    },
    {
      name: 'a writer that fails breaks the fan-out',
      edits: [edit(HANDOVER, 'this.#reject(error);', 'throw error;')],
      caughtBy: 'that fails does so alone',
    },
    {
      name: 'a bookmark is handed over before its page is published',
      edits: [
        edit(
          SUBSCRIPTION,
          'return this.given();\n        }\n        this.#queue.taken();',
          'return this.given();\n        }\n        if (this.#bookmarkIsDue()) handover.give(this.#bookmark(this.#covered()));\n        this.#queue.taken();',
        ),
      ],
      caughtBy: 'has no bookmark that is late before the page that is just published',
    },
    {
      name: 'a stream that is no longer live keeps its writer waiting',
      edits: [edit(SUBSCRIPTION, `return handover.end();`, 'return;')],
      caughtBy: 'is left when the stream has to read the log again, and misses nothing',
    },
  ].map((mutant) => ({ ...mutant, testFile: 'unit/handover' })),
  {
    name: 'a hub does not share what its streams read',
    edits: [edit(HUB, 'this.#pages.read(', 'this.#options.readPage(')],
    testFile: 'unit/shared_pages',
    caughtBy: 'are read once for all streams of a hub that catch up together',
  },
  {
    name: 'a message is written behind the status',
    edits: [edit('dist/src/rpc/grpc_stream.js', 'if (this.#closed || this.#isOver())', 'if (this.#closed)')],
    testFile: 'unit/rpc_stream',
    caughtBy:
      'nothing is written behind the status with which grpc-js ends a stream, and the call ends with it',
  },
  {
    name: 'a writer that is handed messages never lacks room',
    edits: [
      edit(
        'dist/src/rpc/grpc_stream.js',
        'const send = (message) => sink.write(frame(message));',
        'const send = (message) => { sink.write(frame(message)); return true; };',
      ),
    ],
    testFile: 'unit/rpc_stream',
    caughtBy: 'the gRPC server takes two messages that are handed over for a reader that reads nothing',
  },
  {
    name: 'each stream has a copy of the bytes',
    edits: [edit('dist/src/rpc/grpc_stream.js', 'if (this.#stream === undefined) {', 'if (true) {')],
    testFile: 'unit/rpc_stream',
    caughtBy: 'readers that stand still over gRPC share the bytes of a message that waits for them',
  },
];

export const WATCH_MUTANTS: readonly Mutant[] = MUTANTS.map((mutant) => ({
  testFile: 'server/mutants_watch',
  ...mutant,
}));
