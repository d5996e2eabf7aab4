import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Code, ConnectError } from '@connectrpc/connect';
import { WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { encodeResumeToken } from '../../src/watch/resume_token.js';
import { LIMITS } from '../../src/base/limits.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { waitingForLock } from '../support/log_runs.js';
import { startTestServer, STOP_MS, type TestServer } from '../support/server.js';
import { assertTook, waitFor, within } from '../support/wait.js';
import { Watching } from '../support/watching.js';

function reasonOf(error: unknown): string | undefined {
  return ConnectError.from(error).findDetails(ErrorInfoSchema)[0]?.reason;
}

describeOnEveryPostgres('WatchRuns', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let other: TestServer;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    other = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await other.stop();
    await database.drop();
  });

  /** Takes one run through the whole pipeline, by calls to both servers. */
  const runThrough = async (): Promise<string> => {
    const id = (await baton.jobs.createRun({})).run?.id ?? '';
    for (const [stage, status] of [
      ['initialize', 'initialized'],
      ['run', 'success'],
    ] as const) {
      const { claims } = await other.jobs.claimNext({ stage });
      await baton.jobs.updateStatus({
        runId: claims[0]?.run?.id ?? '',
        leaseToken: claims[0]?.leaseToken ?? '',
        status,
      });
    }
    return id;
  };

  void test('opens at once on a silent database, with a token that resumes', async () => {
    const started = performance.now();
    const watch = await new Watching(baton.jobs).opened();
    assertTook('opening a stream', performance.now() - started, 1000);
    assert.equal(watch.messages[0]?.kind, WatchKind.OPENED);
    assert.equal(watch.messages[0].revision, 0n);
    await watch.cancel();
    await baton.jobs.createRun({});
    const resumed = new Watching(other.jobs, { after: watch.lastToken });
    await resumed.hasEvents(1);
    assert.equal(resumed.events[0]?.type, EventType.CREATED);
    await resumed.cancel();
  });

  void test('delivers every change in order to streams on every server, over gRPC and Connect', async () => {
    const watches = [
      new Watching(baton.jobs),
      new Watching(other.jobs),
      new Watching(baton.httpJobs),
      new Watching(other.httpJobs, { includePayload: true }),
    ];
    await Promise.all(watches.map((watch) => watch.opened()));
    const id = await runThrough();
    const expected = ['CREATED', 'CLAIMED', 'STAGE_COMPLETED', 'CLAIMED', 'SUCCEEDED'];
    for (const watch of watches) {
      await watch.hasEvents(expected.length);
      assert.deepEqual(
        watch.events.map((event) => EventType[event.type]),
        expected,
      );
      assert.deepEqual(
        watch.events.map((event) => event.version),
        [1n, 2n, 3n, 4n, 5n],
      );
      assert.ok(watch.events.every((event) => event.run?.id === id));
      await watch.cancel();
    }
    await waitFor(
      () => baton.server.service.hub.streamCount + other.server.service.hub.streamCount === 0,
      'no stream to be left',
      1000,
    );
  });

  void test('a filter matches a run as it is or as it was', async () => {
    const entered = await new Watching(baton.jobs, { filter: { statuses: ['initialized'] } }).opened();
    const mine = await new Watching(baton.jobs, {
      filter: { repository: 'mine', labels: { a: 'b' } },
    }).opened();
    await runThrough();
    await baton.jobs.createRun({ repository: 'mine', labels: { a: 'b', c: 'd' } });
    await baton.jobs.createRun({ repository: 'mine' });
    await entered.hasEvents(2);
    await mine.hasEvents(1);
    assert.deepEqual(
      entered.events.map((event) => [event.previousStatus, event.run?.status]),
      [
        ['initializing', 'initialized'],
        ['initialized', 'running'],
      ],
    );
    await entered.cancel();
    await mine.cancel();
    assert.equal(mine.events.length, 1);
  });

  void test('resumes after any token, on any server, with exactly what follows', async () => {
    const whole = await new Watching(baton.jobs, { after: 'oldest' }).opened();
    for (let index = 0; index < 5; index += 1) await runThrough();
    await whole.hasEvents(25);
    await whole.cancel();
    const all = whole.events.map((event) => event.revision);
    assert.deepEqual(
      all,
      [...all].sort((a, b) => Number(a - b)),
    );
    assert.equal(new Set(all).size, 25);
    for (const message of whole.messages) {
      const rest = all.filter((revision) => revision > message.revision);
      const resumed = new Watching(other.jobs, { after: message.resumeToken });
      await resumed.hasEvents(rest.length);
      assert.deepEqual(
        resumed.events.map((event) => event.revision),
        rest,
      );
      await resumed.cancel();
    }
  });

  void test('many writers and streams that come and go: nothing is lost, doubled or reordered', async () => {
    const writers = 8;
    const perWriter = 60;
    const total = writers * perWriter;
    const early = await new Watching(baton.jobs).opened();
    const writing = Promise.all(
      Array.from({ length: writers }, async (_, writer) => {
        for (let index = 0; index < perWriter; index += 1) {
          await (writer % 2 === 0 ? baton : other).jobs.createRun({
            repository: `w${writer}`,
            labels: { n: String(index) },
          });
        }
      }),
    );
    // Streams that open in the middle of the traffic, from the start of the log and from now.
    const late: Watching[] = [];
    for (let index = 1; index <= 10; index += 1) {
      await early.hasEvents((total / 12) * index);
      late.push(
        new Watching(index % 2 === 0 ? baton.jobs : other.jobs, { after: index % 3 === 0 ? '' : 'oldest' }),
      );
    }
    await writing;
    await early.hasEvents(total);
    const log = await database.pool.query<{ revision: bigint }>(
      'select revision from baton.run_events order by revision',
    );
    const truth = log.map((row) => row.revision);
    assert.equal(truth.length, total);
    assert.deepEqual(
      early.events.map((event) => event.revision),
      truth,
    );
    for (const watch of late) {
      await watch.opened();
      const rest = truth.filter((revision) => revision > (watch.messages[0]?.revision ?? 0n));
      await watch.hasEvents(rest.length);
      assert.deepEqual(
        watch.events.map((event) => event.revision),
        rest,
      );
    }
    for (const watch of [early, ...late]) await watch.cancel();
  });

  void test('plain SQL is watched, also out of a long transaction that blocks nobody', async () => {
    const watch = await new Watching(baton.jobs).opened();
    const idle = await database.connect();
    await idle.query('begin');
    await idle.query(`insert into baton.runs (repository) values ('slow')`);
    await baton.jobs.createRun({ repository: 'quick' });
    await watch.hasEvents(1);
    assert.equal(watch.events[0]?.run?.repository, 'quick');
    await idle.query('commit');
    await watch.hasEvents(2);
    assert.equal(watch.events[1]?.run?.repository, 'slow');
    await database.pool.query(`update baton.runs set status = 'initializing' where repository = 'slow'`);
    await watch.hasEvents(3);
    assert.equal(watch.events[2]?.type, EventType.CLAIMED);
    await watch.cancel();
  });

  void test('locks that somebody holds on runs delay neither streams nor other calls for long', async () => {
    const { runs } = await baton.jobs.batchCreateRuns({ requests: Array.from({ length: 20 }, () => ({})) });
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize', maxRuns: 20 });
    assert.equal(claims.length, runs.length);
    const watch = await new Watching(baton.jobs).opened();
    const holder = await database.connect();
    await holder.query('begin');
    await holder.query('select 1 from baton.runs for update');
    // More calls than may wait for locks at the same time.
    const blocked = claims.map((claim) =>
      baton.jobs
        .updateStatus({ runId: claim.run?.id ?? '', leaseToken: claim.leaseToken, status: 'initialized' })
        .then(
          () => 'done',
          (error: unknown) => ConnectError.from(error).code,
        ),
    );
    await waitFor(
      async () => (await waitingForLock(database.pool)).length >= LIMITS.groups.aloneInFlight,
      'the calls to wait for the locks',
    );
    await database.pool.query(`insert into baton.runs (repository) values ('meanwhile')`);
    await watch.hasEvents(1);
    assert.equal(watch.events[0]?.run?.repository, 'meanwhile');
    const outcomes = await within(Promise.all(blocked), 'the blocked calls', 20_000);
    assert.ok(
      outcomes.every((outcome) => outcome === Code.Unavailable),
      String(outcomes),
    );
    await holder.query('rollback');
    const [first] = claims;
    await baton.jobs.updateStatus({
      runId: first?.run?.id ?? '',
      leaseToken: first?.leaseToken ?? '',
      status: 'initialized',
    });
    await watch.cancel();
  });

  void test('bookmarks a silent stream, and one whose filter matches nothing', async () => {
    const bookmarkInterval = { seconds: 1n };
    const silent = await new Watching(baton.jobs, { bookmarkInterval }).opened();
    const picky = await new Watching(baton.jobs, {
      bookmarkInterval,
      filter: { repository: 'nobody' },
    }).opened();
    const created = await baton.jobs.createRun({});
    const { events } = await baton.jobs.listRunEvents({ runId: created.run?.id ?? '' });
    const revision = events[0]?.revision ?? 0n;
    const bookmarked = (watch: Watching): boolean =>
      watch.messages.some((message) => message.kind === WatchKind.BOOKMARK && message.revision === revision);
    await waitFor(
      () => bookmarked(silent) && bookmarked(picky),
      'both bookmarks',
      5000,
      LIMITS.bookmarkDefaultMs - 1000,
    );
    assert.equal(picky.events.length, 0);
    await silent.cancel();
    await picky.cancel();
  });

  void test('refuses loudly a token that is foreign, ahead of the log, too old or no token at all', async () => {
    await baton.jobs.createRun({});
    const { resumeToken } = await baton.jobs.listRuns({});
    const [log] = await database.pool.query<{ epoch: string }>('select epoch::text from baton.log');
    const epoch = log?.epoch ?? '';
    const foreign = '11111111-2222-4333-8444-555555555555';
    await database.pool.query('update baton.log set oldest_revision = 2');
    for (const [after, code, reason] of [
      ['nonsense', Code.InvalidArgument, 'INVALID_ARGUMENT'],
      [`${resumeToken}A`, Code.InvalidArgument, 'INVALID_ARGUMENT'],
      [encodeResumeToken({ epoch: foreign, revision: 1n }), Code.FailedPrecondition, 'RESUME_TOKEN_FOREIGN'],
      [encodeResumeToken({ epoch, revision: 1000n }), Code.FailedPrecondition, 'RESUME_TOKEN_FUTURE'],
      [encodeResumeToken({ epoch, revision: 0n }), Code.OutOfRange, 'RESUME_TOKEN_TOO_OLD'],
    ] as const) {
      const watch = new Watching(baton.jobs, { after });
      await watch.end();
      assert.equal(ConnectError.from(watch.error).code, code, after);
      assert.equal(reasonOf(watch.error), reason);
      assert.equal(watch.messages.length, 0);
      if (reason === 'RESUME_TOKEN_FUTURE') {
        const { metadata } = await failure(Promise.reject(watch.error));
        assert.equal(metadata['head_revision'], '1');
      }
    }
  });

  void test('include_state gives the matching runs, then exactly the changes after them', async () => {
    const total = 1200;
    await baton.jobs.batchCreateRuns({
      requests: Array.from({ length: 1000 }, () => ({ repository: 'mine' })),
    });
    await baton.jobs.batchCreateRuns({
      requests: Array.from({ length: 300 }, () => ({ repository: 'other' })),
    });
    // Changes that go on while the state is read.
    const writing = (async () => {
      for (let index = 0; index < 200; index += 1)
        await other.jobs.createRun({ repository: 'mine', input: { index } });
    })();
    const watch = await new Watching(baton.jobs, {
      includeState: true,
      includePayload: true,
      filter: { repository: 'mine' },
    }).opened();
    await writing;
    await waitFor(() => watch.events.length >= total || watch.ended, 'state and changes');
    const end = watch.messages.findIndex((message) => message.kind === WatchKind.STATE_END);
    const before = watch.messages.slice(0, end);
    const state = before.flatMap((message) => message.events);
    const changes = watch.messages.slice(end).flatMap((message) => message.events);
    const since = watch.messages[end]?.revision ?? 0n;
    assert.equal(watch.messages[0]?.kind, WatchKind.OPENED);
    assert.ok(before.every((message) => message.resumeToken === ''));
    assert.ok(state.every((event) => event.type === EventType.UNSPECIFIED && event.previousStatus === ''));
    assert.ok(changes.every((event) => event.revision > since));
    const truth = await database.pool.query<{ id: string; old: boolean }>(
      `select r.id::text, e.revision <= $1::bigint as old from baton.runs r join baton.run_events e on e.run_id = r.id
       where r.repository = 'mine' order by e.revision`,
      [since],
    );
    assert.deepEqual(
      state.map((event) => event.run?.id ?? '').sort((a, b) => a.localeCompare(b)),
      truth
        .filter((row) => row.old)
        .map((row) => row.id)
        .sort(),
    );
    assert.deepEqual(
      changes.map((event) => event.run?.id),
      truth.filter((row) => !row.old).map((row) => row.id),
    );
    await watch.cancel();
    await waitFor(
      async () => {
        const rows = await database.pool.query(
          `select 1 from pg_stat_activity where datname = current_database() and state like 'idle in trans%'`,
        );
        return rows.length === 0;
      },
      'no snapshot to be left open',
      2000,
    );
  });

  void test('until_terminal ends the stream after the last event of the last run', async () => {
    const first = (await baton.jobs.createRun({})).run?.id ?? '';
    const second = (await baton.jobs.createRun({})).run?.id ?? '';
    const { resumeToken } = await baton.jobs.listRuns({});
    const watch = await new Watching(other.jobs, {
      untilTerminal: true,
      filter: { runIds: [first, second] },
    }).opened();
    for (let index = 0; index < 2; index += 1) {
      const { claims } = await baton.jobs.claimNext({ stage: 'initialize' });
      const update = { runId: claims[0]?.run?.id ?? '', leaseToken: claims[0]?.leaseToken ?? '' };
      assert.equal(watch.ended, false);
      await baton.jobs.updateStatus({ ...update, status: index === 0 ? 'canceled' : 'error' });
    }
    await watch.end();
    assert.equal(watch.error, undefined);
    assert.deepEqual(
      watch.events.map((event) => EventType[event.type]),
      ['CLAIMED', 'CANCELED', 'CLAIMED', 'FAILED'],
    );

    // Runs that have ended already: history after a token is still delivered first, and without one there is none.
    const late = new Watching(baton.jobs, {
      untilTerminal: true,
      filter: { runIds: [first, second] },
      after: resumeToken,
    });
    await late.end();
    assert.equal(late.error, undefined);
    assert.equal(late.events.length, 4);
    const nothing = new Watching(baton.jobs, { untilTerminal: true, filter: { runIds: [first] } });
    await nothing.end();
    assert.deepEqual(
      nothing.messages.map((message) => message.kind),
      [WatchKind.OPENED],
    );
    const unknown = new Watching(baton.jobs, {
      untilTerminal: true,
      filter: { runIds: ['00000000-0000-7000-8000-000000000000'] },
    });
    await unknown.end();
    assert.equal(reasonOf(unknown.error), 'RUN_NOT_FOUND');
    for (const request of [
      { untilTerminal: true },
      { untilTerminal: true, filter: { runIds: [first], statuses: ['new'] } },
      { includeState: true, after: 'oldest' },
    ]) {
      const refused = new Watching(baton.jobs, request);
      await refused.end();
      assert.equal(reasonOf(refused.error), 'INVALID_ARGUMENT');
    }
  });

  void test('200 streams and 50 waiting claims need no connection to the database of their own', async () => {
    const sessions = async (): Promise<{ listen: number; pooled: number }> => {
      const rows = await database.pool.query<{ application_name: string; n: number }>(
        `select application_name, count(*)::int as n from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid() and application_name like 'baton%'
         group by 1`,
      );
      const count = (name: string): number => rows.find((row) => row.application_name === name)?.n ?? 0;
      return { listen: count('baton listen'), pooled: count('baton') + count('baton watch') };
    };
    const watches = Array.from(
      { length: 200 },
      (_, index) => new Watching(index % 4 === 0 ? baton.httpJobs : baton.jobs),
    );
    await Promise.all(watches.map((watch) => watch.opened()));
    const abort = new AbortController();
    const waits = Array.from({ length: 50 }, () =>
      baton.jobs
        .claimNext({ stage: 'run', wait: { seconds: 30n } }, { signal: abort.signal })
        .catch(() => undefined),
    );
    await waitFor(() => baton.server.service.claims.waiting === 50, 'all claims to wait');
    await other.jobs.createRun({});
    await Promise.all(watches.map((watch) => watch.hasEvents(1)));
    const { listen, pooled } = await sessions();
    assert.equal(listen, 2, 'one LISTEN connection for each of the two servers');
    // Two servers with pools of 5 and 3, and this test's own pool of 20 under the same name.
    const own = database.pool.size - 1;
    assert.ok(pooled <= 16 + own, `${pooled} pooled connections, of which ${own} are the test's`);
    abort.abort();
    await Promise.all(waits);
    await Promise.all(watches.map((watch) => watch.cancel()));
  });

  void test('a stop ends waiting claims with an empty answer and streams with a last token', async () => {
    const watch = await new Watching(baton.jobs).opened();
    const viaHttp = await new Watching(baton.httpJobs).opened();
    const waiting = baton.jobs.claimNext({ stage: 'run', wait: { seconds: 30n } });
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the claim to wait');
    await baton.jobs.createRun({});
    await watch.hasEvents(1);
    await within(baton.stop(), 'the server to stop', STOP_MS);
    assert.deepEqual((await waiting).claims, []);
    for (const ended of [watch, viaHttp]) {
      await ended.end();
      assert.equal(reasonOf(ended.error), 'SERVER_STOPPING');
      assert.equal(ConnectError.from(ended.error).code, Code.Unavailable);
      assert.equal(ended.messages.at(-1)?.kind, WatchKind.BOOKMARK);
    }
    await other.jobs.createRun({});
    const resumed = new Watching(other.jobs, { after: watch.lastToken });
    await resumed.hasEvents(1);
    assert.equal(resumed.events.length, 1);
    await resumed.cancel();
  });

  void test('a stream outlives the loss of every database connection', async () => {
    const watch = await new Watching(baton.jobs).opened();
    await baton.jobs.createRun({});
    await watch.hasEvents(1);
    await database.pool.query(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid() and application_name like 'baton%'`,
    );
    await waitFor(
      () =>
        other.jobs.createRun({}).then(
          () => true,
          () => false,
        ),
      'the pool to come back',
    );
    await watch.hasEvents(2);
    assert.equal(watch.ended, false);
    await watch.cancel();
  });
});
