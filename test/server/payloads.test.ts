/** Payloads that nobody can be sent, that fit no answer, or that fit one only when they are measured. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Code, ConnectError } from '@connectrpc/connect';
import { JobService, WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import { ANSWER_BYTES, CountingClient, countRuns, MIB } from '../support/answers.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { EventsReader } from '../support/events_reader.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';
import { Watching } from '../support/watching.js';

const STAGE = { stage: 'initialize', workerId: 'w' };
/** In its midst a number that no double holds. */
const DEEP_NUMBER = `(repeat('{"x":', 5000) || '1e400' || repeat('}', 5000))::jsonb`;
const DEEP = `(repeat('{"x":', 5000) || '1' || repeat('}', 5000))::jsonb`;
/** In protobuf five times as large as in JSON. */
const ZEROS = (count: number): string =>
  `jsonb_build_object('a', (select jsonb_agg(0) from generate_series(1, ${count})))`;
const { method } = JobService;

describeOnEveryPostgres('payloads', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let client: CountingClient;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    client = new CountingClient(new URL(baton.grpcUrl).host);
  });

  afterEach(async () => {
    client.close();
    await baton.stop();
    await database.drop();
  });

  const insert = async (input: string, repository = ''): Promise<string> => {
    const [row] = await database.pool.query<{ id: string }>(
      `insert into baton.runs (repository, input) values ($1, ${input}) returning id`,
      [repository],
    );
    return row!.id;
  };
  const get = async (id: string): Promise<Run> => (await baton.jobs.getRun({ id })).run!;
  /** Two runs that cannot be sent, each between good ones. */
  const poison = async (): Promise<{ good: string[]; bad: string[] }> => {
    const good = [await insert(`'{"n": 1}'`, 'good')];
    const bad = [await insert(DEEP, 'bad')];
    good.push(await insert(`'{"n": 2}'`, 'good'));
    bad.push(await insert(`'{}'`, 'bad'));
    await database.pool.query(`update baton.runs set output = ${DEEP_NUMBER} where id = $1`, [bad[1]]);
    good.push(await insert(`'{"n": 3}'`, 'good'));
    return { good, bad };
  };

  for (const transport of ['jobs', 'httpJobs'] as const)
    void test(`a run that cannot be sent fails alone and for good (${transport})`, async () => {
      const { good, bad } = await poison();
      const { claims } = await baton[transport].claimNext({ ...STAGE, maxRuns: 10 });
      assert.deepEqual(
        claims.map(({ run }) => [run?.id, run?.attempt]),
        good.map((id) => [id, 1]),
      );
      for (const [index, id] of bad.entries()) {
        const run = await get(id);
        assert.equal(run.state, RunState.FAILED);
        assert.equal(run.error?.code, 'PAYLOAD_UNREADABLE');
        assert.match(run.error.message, index === 0 ? /^input cannot be sent/ : /^output cannot be sent/);
        assert.equal(run.payloadOmitted, true);
      }
      assert.equal((await countRuns(database.pool)).active, 3);
      // Mended, it goes on.
      await database.pool.query(`update baton.runs set output = null where id = $1`, [bad[1]]);
      await baton.jobs.retryRun({ runId: bad[1]! });
      const again = await baton[transport].claimNext({ ...STAGE, maxRuns: 10 });
      assert.deepEqual(
        again.claims.map(({ run }) => run?.id),
        [bad[1]],
      );
    });

  void test('a call that finds nothing else waits on, or looks on, and so does one beside it', async () => {
    await insert(DEEP);
    const waiting = [1, 2].map(() => baton.jobs.claimNext({ ...STAGE, wait: { seconds: 40n, nanos: 0 } }));
    await waitFor(async () => (await countRuns(database.pool)).failed === 1, 'the run to fail', 20_000);
    const ids = [await insert(`'{}'`), await insert(`'{}'`)];
    const given = (await Promise.all(waiting)).map(({ claims }) => claims[0]?.run?.id);
    assert.deepEqual(new Set(given), new Set(ids));
    for (let n = 0; n < 3; n += 1) await insert(DEEP);
    const good = await insert(`'{}'`);
    const { claims } = await baton.jobs.claimNext(STAGE);
    assert.equal(claims[0]?.run?.id, good, 'no empty answer where there is a run');
  });

  void test('the claim of an update passes over what cannot be sent, too', async () => {
    const first = await insert(`'{}'`);
    const [claim] = (await baton.jobs.claimNext(STAGE)).claims;
    assert.equal(claim?.run?.id, first);
    await insert(DEEP);
    const next = await insert(`'{"n": 2}'`);
    const { run, claims } = await baton.jobs.updateStatus({
      ...{ runId: first, leaseToken: claim.leaseToken, status: 'initialized', claimNext: STAGE },
    });
    assert.equal(run?.status, 'initialized');
    assert.deepEqual(
      claims.map((item) => item.run?.id),
      [next],
    );
    assert.equal((await countRuns(database.pool)).failed, 1);
  });

  void test('lists, histories and watches go on past what cannot be sent', async () => {
    const { good, bad } = await poison();
    const omitted = (runs: readonly (Run | undefined)[]): (string | undefined)[] =>
      runs.filter((run) => run?.payloadOmitted === true).map((run) => run?.id);
    for (const jobs of [baton.jobs, baton.httpJobs]) {
      const { runs } = await jobs.listRuns({ includePayload: true });
      assert.equal(runs.length, 5);
      assert.deepEqual(new Set(omitted(runs)), new Set(bad));
      assert.deepEqual(omitted((await jobs.listRuns({})).runs), [], 'nothing was asked for');
      const { events } = await jobs.listRunEvents({ runId: bad[1]!, includePayload: true });
      assert.deepEqual(
        events.map(({ run }) => run?.payloadOmitted),
        [false, true],
      );
    }
    const streams = [baton.jobs, baton.httpJobs].map((jobs) => ({
      all: new Watching(jobs, { after: 'oldest', includePayload: true }),
      state: new Watching(jobs, { includeState: true, includePayload: true }),
    }));
    for (const { all, state } of streams) {
      await all.hasEvents(6);
      await state.hasEvents(5);
      assert.equal(new Set(omitted(all.events.map(({ run }) => run))).size, 2);
      assert.equal(omitted(state.events.map(({ run }) => run)).length, 2);
    }
    const live = await insert(DEEP);
    for (const { all, state } of streams) {
      await all.hasEvents(7);
      assert.deepEqual([all.events[6]?.run?.id, all.events[6]?.run?.payloadOmitted], [live, true]);
      for (const watching of [all, state]) await watching.cancel();
    }
    const reader = await new EventsReader(baton.httpUrl, 'after=oldest&include_payload=true').opened();
    await reader.hasEvents(6);
    assert.deepEqual(
      reader.events.slice(0, 6).map(({ run }) => run['payloadOmitted']),
      [false, true, false, false, true, false],
    );
    await reader.cancel();
    assert.equal((await get(good[0]!)).payloadOmitted, false);
  });

  void test('times that protobuf cannot say are cut to its years', async () => {
    const id = await insert(`'{}'`);
    const [claim] = (await baton.jobs.claimNext(STAGE)).claims;
    await database.pool.query(`update baton.runs set lease_expire_time = 'infinity' where id = $1`, [id]);
    for (const jobs of [baton.jobs, baton.httpJobs]) {
      const { run } = await jobs.getRun({ id });
      assert.equal(run?.leaseExpireTime?.seconds, 253_402_300_799n);
    }
    await baton.jobs.updateStatus({ runId: id, leaseToken: claim!.leaseToken, status: 'initialized' });
  });

  void test('claims that turn out not to fit are released before the answer, at no attempt', async () => {
    const runs = 16;
    // 1.1 MB as encoded, and a fifth of that as text.
    await database.pool.query(
      `insert into baton.runs (input) select z.input from (select ${ZEROS(100_000)} as input) z, generate_series(1, ${runs})`,
    );
    const { claims } = await client.call(method.claimNext, { ...STAGE, maxRuns: 1000 });
    assert.equal(claims.length, 2);
    const longest = client.takeLongest();
    assert.ok(longest > 2 * MIB && longest <= ANSWER_BYTES, `${longest} bytes`);
    const counts = await countRuns(database.pool);
    assert.deepEqual(
      { ...counts, released: counts.released > 0 },
      { pending: runs - 2, active: 2, failed: 0, attempts: 2, released: true },
    );
    const page = await client.call(method.listRuns, { includePayload: true, pageSize: 1000 });
    assert.equal(page.runs.length, 2);
    assert.notEqual(page.nextPageToken, '');
    assert.ok(client.takeLongest() <= ANSWER_BYTES);
  });

  void test('a single run that fits nothing is listed without its payload, read by GetRun and claimed alone', async () => {
    const small = await insert(`'{"n": 1}'`);
    const id = await insert(ZEROS(150_000));
    await database.pool.query(`update baton.runs set output = ${ZEROS(150_000)} where id = $1`, [id]);
    const last = await insert(`'{"n": 3}'`);
    const { runs } = await client.call(method.listRuns, { includePayload: true });
    assert.deepEqual(
      runs.map((run) => [run.id, run.payloadOmitted, run.input === undefined]),
      [
        [last, false, false],
        [id, true, true],
        [small, false, false],
      ],
    );
    const watching = new Watching(baton.jobs, { after: 'oldest', includePayload: true });
    await watching.hasEvents(4);
    assert.deepEqual(
      watching.events.map(({ run }) => run?.payloadOmitted),
      [false, false, true, false],
    );
    await watching.cancel();
    const whole = await get(id);
    assert.deepEqual(
      [(whole.input?.['a'] as number[] | undefined)?.length, whole.payloadOmitted],
      [150_000, false],
    );
    const sizes: number[] = [];
    for (let call = 1; call <= 3; call += 1) {
      const { claims } = await baton.jobs.claimNext({ ...STAGE, maxRuns: 10 });
      sizes.push(claims.length);
      assert.ok(claims.every(({ run }) => run?.payloadOmitted === false && run.input !== undefined));
    }
    assert.deepEqual(sizes, [1, 1, 1]);
    assert.equal((await countRuns(database.pool)).attempts, 3);
  });

  void test('a repeat shows each run as it was claimed, and releases nothing', async () => {
    for (let n = 0; n < 3; n += 1)
      await database.pool.query(`insert into baton.runs (input) values ($1)`, [
        { n, text: 'x'.repeat(MIB - 40) },
      ]);
    const request = { ...STAGE, maxRuns: 10, requestId: 'once' };
    const first = await client.call(method.claimNext, request);
    assert.equal(first.claims.length, 2);
    for (const { run, leaseToken } of first.claims)
      await baton.jobs.updateStatus({
        ...{ runId: run!.id, leaseToken, status: 'initializing', progress: 0.5 },
        ...{ output: { text: 'y'.repeat(MIB - 40) }, checkpoint: { n: 1 } },
      });
    const before = await countRuns(database.pool);
    client.takeLongest();
    for (let n = 0; n < 2; n += 1) {
      const again = await client.call(method.claimNext, request);
      assert.deepEqual(
        again.claims.map(({ run, leaseToken }) => [run, leaseToken]),
        first.claims.map(({ run, leaseToken }) => [run, leaseToken]),
      );
    }
    assert.ok(client.takeLongest() <= ANSWER_BYTES);
    // The same by an update, which is not told anew either.
    const [held] = first.claims;
    const update = { runId: held!.run!.id, leaseToken: held!.leaseToken, status: 'initializing' };
    const told = await client.call(method.updateStatus, { ...update, claimNext: request });
    assert.deepEqual(
      told.claims.map(({ run }) => run),
      first.claims.map(({ run }) => run),
    );
    assert.deepEqual(await countRuns(database.pool), before);
    const shown = (
      await baton.jobs.listRunEvents({ runId: held!.run!.id, includePayload: true })
    ).events.find(({ type }) => type === EventType.CLAIMED);
    assert.deepEqual(told.claims[0]?.run, shown?.run);
  });

  void test('without include_payload nothing is read, and a default client is never refused', async () => {
    const text = 'x'.repeat(900_000);
    const requests = Array.from({ length: 8 }, () => ({ input: { text } }));
    const made = await client.call(method.batchCreateRuns, { requests });
    const ids = made.runs.map(({ id }) => id);
    const one = await client.call(method.createRun, { input: { text }, requestId: 'r' });
    const repeated = await client.call(method.createRun, { input: { text }, requestId: 'r' });
    const { claims } = await client.call(method.claimNext, { ...STAGE, maxRuns: 3 });
    const updates = claims.map(({ run, leaseToken }) => ({
      ...{ runId: run!.id, leaseToken, status: 'error', output: { text } },
    }));
    const updated = await client.call(method.batchUpdateStatus, { requests: updates });
    const retried = await client.call(method.retryRun, { runId: updates[0]!.runId });
    const canceled = await client.call(method.cancelRun, { runId: ids[7]! });
    const shown = [
      ...made.runs,
      ...[one, repeated, retried, canceled].map(({ run }) => run),
      ...updated.results.map(({ result }) => (result.case === 'run' ? result.value : undefined)),
      ...(await client.call(method.listRuns, {})).runs,
      ...(await client.call(method.listRunEvents, { runId: updates[0]!.runId })).events.map(({ run }) => run),
    ];
    assert.ok(shown.length > 20);
    for (const run of shown) {
      assert.ok(run);
      const { input, output, checkpoint, payloadOmitted } = run;
      assert.deepEqual([input, output, checkpoint, payloadOmitted], [undefined, undefined, undefined, false]);
    }
    const { events } = await client.call(method.listRunEvents, {
      runId: updates[0]!.runId,
      includePayload: true,
    });
    assert.equal(events.length, 2, 'each of 0.9 MB or more, and the third of 1.8 MB');
    assert.ok(client.takeLongest() <= ANSWER_BYTES);
    const stream = new Watching(baton.jobs, { includeState: true });
    await stream.hasEvents(9);
    assert.ok(stream.events.every(({ run }) => run?.input === undefined));
    assert.ok(stream.messages.some(({ kind }) => kind === WatchKind.STATE));
    await stream.cancel();
    assert.ok(stream.error === undefined || ConnectError.from(stream.error).code === Code.Canceled);
  });
});
