import { edit, type Mutant } from './mutant.js';

const GROUP = 'dist/src/service/group_commit.js';
const UPDATE_GROUP = 'dist/src/service/update_group.js';
const NEXT_RUNS = 'dist/src/service/next_runs.js';

const DELIVERED = 'if (call.hasUndelivered)';
const handedBack = (over: string): string =>
  `a claim is handed back when the connection breaks under its answer (${over})`;

/** Ways to break what merges calls, what hands claims back, and the mark that claims start at. */
export const GROUP_MUTANTS: readonly Mutant[] = [
  ...[
    {
      name: 'a group waits for what others have locked',
      edits: [edit(UPDATE_GROUP, `update), 'skip')`, `update), 'wait')`)],
      caughtBy: 'a run that somebody has locked holds up its own update only',
    },
    {
      name: 'claims wait for what others have locked of a repeated one',
      edits: [edit('dist/src/service/claims.js', `requests, 'skip')`, `requests, 'wait')`)],
      caughtBy: 'a repeated claim of a run that somebody has locked holds up no other claim',
    },
    {
      name: 'an extension that met a lock is told lost',
      edits: [
        edit(
          'dist/src/service/extend_leases.js',
          'lease && { value: lease }',
          'lease ? { value: lease } : { value: undefined }',
        ),
      ],
      caughtBy: 'extending the lease of a locked run waits for it, and is not told that the lease is lost',
    },
    {
      name: 'the guilty one takes its group along',
      edits: [edit(GROUP, 'group.length === 1 || ', 'true || ')],
      caughtBy: 'halves a group that was refused until the guilty item alone fails',
    },
    {
      name: 'a group that may have been committed is sent again',
      edits: [edit(GROUP, 'group.length === 1 || !wasRolledBack(error)', 'group.length === 1')],
      caughtBy: 'does not send a group again when it may have been committed',
    },
    {
      name: 'two items of one run in one group',
      edits: [edit(GROUP, 'if (clashes)', 'if (false)')],
      caughtBy: 'what is reported of one run is applied in the order it was sent',
    },
    {
      name: 'an item that is done alone is overtaken',
      edits: [edit(GROUP, ' || this.#lonelyKeys.has(key)', '')],
      caughtBy: 'items with one key go one after the other, also when the first is done alone',
    },
    {
      name: 'a crowd goes as one',
      edits: [
        edit(GROUP, 'Math.max(Math.ceil((waiting + answered) / 2), atLeast)', 'Math.max(waiting, atLeast)'),
      ],
      caughtBy: 'parts a crowd, whose halves then take turns, and nothing smaller',
    },
    {
      name: 'the half of a crowd is parted again',
      edits: [edit(GROUP, 'Math.ceil((waiting + answered) / 2)', 'Math.ceil(waiting / 2)')],
      caughtBy: 'parts a crowd, whose halves then take turns, and nothing smaller',
    },
    {
      name: 'what its caller has given up is sent all the same',
      edits: [edit(GROUP, 'this.#queue.delete(waiter);\n        if (this.#lonely', 'if (this.#lonely')],
      caughtBy: 'a deadline is kept while a group waits, and nothing that was not sent is done',
    },
    {
      name: 'a full queue takes more',
      edits: [edit(GROUP, 'if (fits || ', 'if (true || ')],
      caughtBy: 'refuses what is too much, and takes more when there is room',
    },
    {
      name: 'the claim of a caller that has gone is kept',
      edits: [edit(UPDATE_GROUP, 'if (made.length > 0)', 'if (made.length < 0)')],
      caughtBy: 'the claim of an update whose caller has gone is handed back',
    },
    {
      name: 'an answer that did not get out keeps its claim (gRPC)',
      edits: [edit('dist/src/rpc/grpc.js', DELIVERED, 'if (false)')],
      caughtBy: handedBack('gRPC'),
    },
    {
      name: 'an answer that did not get out keeps its claim (HTTP)',
      edits: [edit('dist/src/rpc/connect.js', DELIVERED, 'if (false)')],
      caughtBy: handedBack('HTTP'),
    },
  ].map((mutant) => ({ ...mutant, testFile: 'db/group_commit' })),
  {
    name: 'whether a lease is live is read before its row is locked',
    edits: [
      edit(
        'dist/src/store/lease_sql.js',
        'r.lease_id = i.lease_id, false)',
        'r.lease_id = i.lease_id and r.lease_expire_time > clock_timestamp(), false)',
      ),
    ],
    testFile: 'db/statements',
    caughtBy: 'a lease that ends while its extension is being committed is lost to nobody',
  },
  {
    name: 'a repeated claim looks for live leases before it locks',
    edits: [
      edit(
        'dist/src/store/sql/find_claims.js',
        'r.stage = i.stage, false)',
        'r.stage = i.stage and r.lease_expire_time > clock_timestamp(), false)',
      ),
    ],
    testFile: 'db/statements',
    caughtBy: 'a lease that ends while its extension is being committed is lost to nobody',
  },
  {
    name: 'what a repeat was given again is handed back by the first call',
    edits: [
      edit(
        'dist/src/store/sql/release_claims.js',
        'r.repeated_lease is distinct from r.lease_number',
        'true',
      ),
    ],
    testFile: 'db/statements',
    caughtBy: 'releaseClaims leaves what a repeat was given again; a later lease is handed back as ever',
  },
  {
    name: 'claims never begin at the floor again',
    edits: [
      edit(
        NEXT_RUNS,
        'this.#clock.now() - stage.sweptAt >= pauseMs',
        'stage.sweptAt === Number.NEGATIVE_INFINITY',
      ),
    ],
    testFile: 'db/next_runs',
    caughtBy: 'find what was committed late at the next sweep',
  },
  {
    name: 'batches lock request_ids in the order in which they were sent',
    edits: [
      edit('dist/src/store/sql/create_runs.js', "runs.every(({ requestId }) => requestId === '')", 'true'),
    ],
    testFile: 'db/create_batches',
    caughtBy: 'two with the same request_ids in opposite order do not wait for each other in a circle',
  },
  {
    name: 'a crowd of new claims goes as one',
    edits: [edit('dist/src/service/claim_queue.js', 'batch.length >= calls', 'false')],
    testFile: 'unit/claim_queue',
    caughtBy: 'a crowd of new calls is parted, and its halves take turns',
  },
  {
    name: 'claims always begin at the floor',
    edits: [edit(NEXT_RUNS, 'from(stage.marks)', 'from(FLOOR_OF_ALL)')],
    testFile: 'db/next_runs',
    caughtBy: 'cost the same over rows that VACUUM may not remove',
  },
  {
    name: 'a sweep leaves the mark ahead of what it found',
    edits: [
      edit(
        NEXT_RUNS,
        'stage.marks[LIMITS.priorityMax - priority] = mark',
        'if (marks !== FLOOR_OF_ALL || stage.marks[LIMITS.priorityMax - priority] === FLOOR_OF_ALL[0]) stage.marks[LIMITS.priorityMax - priority] = mark',
      ),
    ],
    testFile: 'db/next_runs',
    caughtBy: 'after a sweep go on from what it found',
  },
  {
    name: 'a transaction that stands still keeps its locks',
    edits: [
      edit('dist/src/store/pool.js', `begin; set local idle_in_transaction_session_timeout = '5s'`, 'begin'),
    ],
    testFile: 'db/pool',
    caughtBy: 'that stands still is ended by the database, which frees what it had locked',
  },
  {
    name: 'a stop waits for a silent database',
    edits: [
      edit(
        'dist/src/server.js',
        'setTimeout(abortPools, STOP_QUERIES_MS)',
        'setTimeout(() => undefined, STOP_QUERIES_MS)',
      ),
      edit(
        'dist/src/server.js',
        'setTimeout(() => pool.abort(), CLOSE_POOL_MS)',
        'setTimeout(() => undefined, CLOSE_POOL_MS)',
      ),
    ],
    testFile: 'server/stop',
    caughtBy: 'comes to an end although the database has gone silent',
  },
  {
    name: 'a pool is closed before its connections are gone',
    edits: [edit('dist/src/store/connections.js', 'if (clients.size > 0)', 'if (false)')],
    testFile: 'db/pool',
    caughtBy: 'is closed when its connections are gone, those that have gone silent among them',
  },
  {
    name: 'a lost connection is not looked for',
    edits: [edit('dist/src/store/watchdog.js', 'if (this.#timer === undefined)', 'if (false)')],
    testFile: 'db/pool',
    caughtBy: 'that was lost without a word (half-open) fails its statement within seconds',
  },
  {
    name: 'calls wait for the timeout of those that lost their connection',
    edits: [edit('dist/src/store/watchdog.js', 'connection.cut();', '')],
    testFile: 'server/lost_connections',
    caughtBy: 'hold up neither calls nor streams that come later (drop-to-client)',
  },
  {
    name: 'idle connections are trusted after another one was lost',
    edits: [edit('dist/src/store/watchdog.js', 'this.#options.onLost();', '')],
    testFile: 'db/pool',
    caughtBy: 'that nobody uses is not trusted any more when another one was lost',
  },
  {
    name: 'a connection that is lost while it is made keeps its caller waiting',
    edits: [edit('dist/src/store/watchdog.js', 'watchdog.began(connecting);', '')],
    testFile: 'db/pool',
    caughtBy: 'that was lost while it was made is given up before its timeout',
  },
  {
    name: 'what a pooler says of processes is believed',
    edits: [edit('dist/src/store/watchdog.js', 'answer?.own === processIdOf(client)', 'true')],
    testFile: 'db/pool',
    caughtBy: 'through a pooler is left alone while its statement is slow, since its process is not known',
  },
  {
    name: 'a backend at work is taken for lost',
    edits: [edit('dist/src/store/watchdog.js', `a.state not like 'idle%'`, 'false')],
    testFile: 'db/pool',
    caughtBy: 'whose statement is slow, or waits for a lock, is left alone',
  },
];
