/** Calls that are merged into one transaction stay calls of their own; see src/service/group_commit.ts. */
import assert from 'node:assert/strict';
import { connect, constants } from 'node:http2';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { ClaimNextRequestSchema, type Claim } from '../../gen/baton/v1/job_service_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import { systemClock } from '../../src/base/clock.js';
import { BatonError } from '../../src/base/errors.js';
import { GroupCommit, type GroupCommitOptions } from '../../src/service/group_commit.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { waitingForLock } from '../support/log_runs.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { Signal, waitFor, within } from '../support/wait.js';

const NEVER = new AbortController().signal;
/** A statement that waits for a lock is ended after 3 s, which would let others go on that it held up. */
const BEFORE_LOCK_TIMEOUT_MS = 2500;

const soon = <T>(promise: Promise<T>, what: string): Promise<T> =>
  within(promise, what, BEFORE_LOCK_TIMEOUT_MS, BEFORE_LOCK_TIMEOUT_MS);

void describe('a group', () => {
  /** Groups of numbers that go through a gate; what was sent is kept. */
  function groups(options: Partial<GroupCommitOptions<number, string>> = {}) {
    const sent: number[][] = [];
    const alone: number[] = [];
    let gate: Signal | undefined;
    const group = new GroupCommit<number, string>({
      name: 'numbers',
      limits: {
        ...{ groupItems: 4, partItems: 4, groupWeight: 100, waitingItems: 6, waitingWeight: 1000 },
        ...{ aloneInFlight: 1, aloneWaitMs: 100 },
      },
      clock: systemClock,
      weigh: () => 1,
      keys: () => [],
      async together(items) {
        sent.push([...items]);
        await gate?.promise;
        return items.map((item) => ({ value: `did ${item}` }));
      },
      alone: (item) => {
        alone.push(item);
        return Promise.resolve(`alone ${item}`);
      },
      ...options,
    });
    return {
      group,
      sent,
      alone,
      shut: () => (gate = new Signal()),
    };
  }
  const submit = (group: GroupCommit<number, string>, ...items: number[]): Promise<string>[] =>
    items.map((item) => group.submit(item, NEVER));

  void test('collects while one commits, and keeps to its size and order', async () => {
    const { group, sent, shut } = groups();
    const gate = shut();
    const first = group.submit(0, NEVER);
    await waitFor(() => sent.length === 1, 'the first group');
    const rest = submit(group, 1, 2, 3, 4, 5);
    gate.send();
    assert.deepEqual(await Promise.all([first, ...rest]), [
      ...['did 0', 'did 1', 'did 2', 'did 3', 'did 4', 'did 5'],
    ]);
    assert.deepEqual(sent, [[0], [1, 2, 3, 4], [5]]);
    assert.equal(group.waiting, 0);
  });

  void test('parts a crowd, whose halves then take turns, and nothing smaller', async () => {
    const limits = { groupItems: 100, partItems: 4, groupWeight: 100, waitingItems: 100, waitingWeight: 100 };
    const { group, sent } = groups({ limits: { ...limits, aloneInFlight: 1, aloneWaitMs: 100 } });
    const crowd = Array.from({ length: 20 }, (_, index) => index);
    await Promise.all(
      crowd.map(async (item) => {
        // Everybody comes again once, at once.
        await group.submit(item, NEVER);
        await group.submit(item, NEVER);
      }),
    );
    assert.deepEqual(
      sent.map(({ length }) => length),
      [10, 10, 10, 10],
    );
    sent.length = 0;
    await Promise.all(submit(group, 1, 2, 3, 4));
    assert.deepEqual(sent, [[1, 2, 3, 4]]);
  });

  void test('refuses what is too much, and takes more when there is room', async () => {
    const { group, sent, shut } = groups();
    const gate = shut();
    const held = submit(group, 0, 1, 2, 3, 4, 5);
    await waitFor(() => sent.length === 1, 'the first group');
    const refused = await group.submit(6, NEVER).catch((error: unknown) => error);
    assert.ok(refused instanceof BatonError);
    assert.deepEqual([refused.reason, refused.retryDelayMs, group.refused], ['OVERLOADED', 1000, 1]);
    gate.send();
    await Promise.all(held);
    assert.equal(await group.submit(7, NEVER), 'did 7');
  });

  void test('weighs its items', async () => {
    const { group, sent, shut } = groups({ weigh: (item) => item });
    const gate = shut();
    const held = [...submit(group, 1)];
    await waitFor(() => sent.length === 1, 'the first group');
    held.push(...submit(group, 60, 50, 500));
    await assert.rejects(group.submit(900, NEVER), { reason: 'OVERLOADED' });
    gate.send();
    await Promise.all(held);
    assert.deepEqual(sent, [[1], [60], [50], [500]]);
  });

  void test('a caller that goes away before its group was sent changes nothing; after that it is told of', async () => {
    const dropped: string[] = [];
    const { group, sent, shut } = groups({ onDropped: (value) => dropped.push(value) });
    const gate = shut();
    const [inFlight, queued] = [new AbortController(), new AbortController()];
    const results = [group.submit(0, inFlight.signal)];
    await waitFor(() => sent.length === 1, 'the first group');
    results.push(group.submit(1, queued.signal), group.submit(2, NEVER));
    inFlight.abort();
    queued.abort();
    gate.send();
    const [first, second, third] = await Promise.allSettled(results);
    assert.deepEqual([first?.status, second?.status, third?.status], ['rejected', 'rejected', 'fulfilled']);
    assert.deepEqual(sent, [[0], [2]]);
    assert.deepEqual(dropped, ['did 0']);
    assert.equal(group.waiting, 0);
  });

  void test('halves a group that was refused until the guilty item alone fails', async () => {
    const sent: number[][] = [];
    const { group } = groups({
      together(items) {
        sent.push([...items]);
        if (items.includes(3)) return Promise.reject(new BatonError('STAGE_NOT_FOUND', 'three'));
        return Promise.resolve(items.map((item) => ({ value: `did ${item}` })));
      },
    });
    const results = await Promise.allSettled(submit(group, 1, 2, 3, 4));
    assert.deepEqual(
      results.map((result) => result.status),
      ['fulfilled', 'fulfilled', 'rejected', 'fulfilled'],
    );
    assert.deepEqual(sent, [[1, 2, 3, 4], [1, 2], [3, 4], [3], [4]]);
  });

  void test('does not send a group again when it may have been committed', async () => {
    const sent: number[][] = [];
    const { group } = groups({
      together(items) {
        sent.push([...items]);
        return Promise.reject(new BatonError('DATABASE_UNAVAILABLE', 'the connection broke'));
      },
    });
    const results = await Promise.allSettled(submit(group, 1, 2, 3));
    assert.ok(results.every((result) => result.status === 'rejected'));
    assert.deepEqual(sent, [[1, 2, 3]]);
  });

  void test('what waits too long to be done alone is refused, and may come again', async () => {
    let nowMs = 0;
    const gate = new Signal();
    const { group } = groups({
      clock: { ...systemClock, now: () => nowMs },
      together: (items) => Promise.resolve(items.map(() => undefined)),
      async alone(item) {
        await gate.promise;
        return `alone ${item}`;
      },
    });
    const results = submit(group, 1, 2, 3);
    await waitFor(() => group.groups === 1, 'the group');
    nowMs = 101;
    gate.send();
    const [first, ...late] = await Promise.allSettled(results);
    assert.equal(first?.status, 'fulfilled');
    for (const result of late) {
      assert.ok(result.status === 'rejected' && result.reason instanceof BatonError);
      assert.equal(result.reason.reason, 'DATABASE_UNAVAILABLE');
    }
    assert.equal(await group.submit(4, NEVER), 'alone 4');
  });

  void test('items with one key go one after the other, also when the first is done alone', async () => {
    const order: string[] = [];
    const gate = new Signal();
    const { group } = groups({
      keys: (item) => [String(item % 10)],
      together(items) {
        order.push(`together ${items.join()}`);
        return Promise.resolve(items.map((item) => (item === 1 ? undefined : { value: 'ok' })));
      },
      async alone(item) {
        await gate.promise;
        order.push(`alone ${item}`);
        return 'ok';
      },
    });
    const results = submit(group, 1, 2, 11, 21);
    assert.equal(await results[1], 'ok');
    await within(submit(group, 3)[0] as Promise<string>, 'an item with another key');
    gate.send();
    await Promise.all(results);
    assert.deepEqual(order, ['together 1,2', 'together 3', 'alone 1', 'together 11', 'together 21']);
  });
});

describeOnEveryPostgres('merged calls', (open) => {
  let database: TestDatabase;
  let baton: TestServer;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await database.drop();
  });

  const createRuns = async (count: number): Promise<string[]> => {
    const { runs } = await baton.jobs.batchCreateRuns({
      requests: Array.from({ length: count }, () => ({})),
    });
    return runs.map(({ id }) => id);
  };
  const claim = async (maxRuns = 1): Promise<Claim[]> =>
    (await baton.jobs.claimNext({ stage: 'initialize', workerId: 'w', maxRuns })).claims;
  const tokenOf = (held: Claim) => ({ runId: held.run?.id ?? '', leaseToken: held.leaseToken });
  const complete = (held: Claim) => baton.jobs.updateStatus({ ...tokenOf(held), status: 'initialized' });
  const eventTypes = async (runId: string): Promise<(string | undefined)[]> =>
    (await baton.jobs.listRunEvents({ runId })).events.map((event) => EventType[event.type]);

  void test('one bad call fails alone', async () => {
    const results = await Promise.allSettled(
      Array.from({ length: 40 }, (_, n) => baton.jobs.createRun({ pipeline: n === 17 ? 'nowhere' : 'ci' })),
    );
    const failed = results.flatMap((result, n) => (result.status === 'rejected' ? [n] : []));
    assert.deepEqual(failed, [17]);
    const held = await claim(10);
    const updates = await Promise.allSettled(
      held.map((item, n) =>
        baton.jobs.updateStatus({
          ...tokenOf(item),
          status: n === 3 ? 'running' : 'initialized',
          claimNext: { stage: n === 5 ? 'nowhere' : 'run' },
        }),
      ),
    );
    assert.deepEqual(
      updates.map((result) => result.status),
      held.map((_, n) => (n === 3 || n === 5 ? 'rejected' : 'fulfilled')),
    );
    // What was refused for its claim has not been updated either.
    assert.equal((await baton.jobs.getRun({ id: held[5]?.run?.id ?? '' })).run?.status, 'initializing');
  });

  void test('a run that somebody has locked holds up its own update only', async () => {
    await createRuns(6);
    const held = await claim(6);
    const [locked, ...others] = held;
    assert.ok(locked);
    const client = await database.connect();
    await client.query('begin');
    await client.query('select from baton.runs where id = $1 for update', [locked.run?.id]);
    const late = complete(locked);
    let done = false;
    void late.then(() => (done = true));
    await soon(Promise.all(others.map(complete)), 'updates of other runs');
    const extended = baton.jobs.extendLeases({ leases: others.map(tokenOf) });
    await soon(extended, 'an extension');
    assert.equal(done, false);
    await client.query('commit');
    assert.equal((await within(late, 'the update of the locked run')).run?.status, 'initialized');
  });

  void test('a repeated claim of a run that somebody has locked holds up no other claim', async () => {
    await createRuns(2);
    const request = { stage: 'initialize', workerId: 'w', requestId: 'again' };
    const [held] = (await baton.jobs.claimNext(request)).claims;
    const client = await database.connect();
    await client.query('begin');
    await client.query('select from baton.runs where id = $1 for update', [held?.run?.id]);
    const late = [
      baton.jobs.claimNext(request),
      baton.jobs.claimNext({ ...request, wait: { seconds: 20n } }),
    ];
    const other = baton.jobs.claimNext({ stage: 'initialize', requestId: 'another' });
    const [free] = (await soon(other, 'the other claim')).claims;
    assert.ok(free !== undefined && free.run?.id !== held?.run?.id);
    await client.query('commit');
    for (const { claims } of await within(Promise.all(late), 'the repeated claims'))
      assert.deepEqual(
        claims.map(({ leaseToken }) => leaseToken),
        [held?.leaseToken],
      );
  });

  void test('a repeated claim of a run that is just being handed back asks for others', async () => {
    await createRuns(1);
    const request = { stage: 'initialize', workerId: 'w', requestId: 'again', wait: { seconds: 20n } };
    const [held] = (await baton.jobs.claimNext(request)).claims;
    const client = await database.connect();
    await client.query('begin');
    await client.query(`update baton.runs set status = 'new', attempt = 0 where id = $1`, [held?.run?.id]);
    const repeated = baton.jobs.claimNext(request);
    await waitFor(async () => (await waitingForLock(database.pool)).length > 0, 'the repeated claim to wait');
    await client.query('commit');
    const [again] = (await within(repeated, 'the repeated claim')).claims;
    assert.deepEqual([again?.run?.id, again?.run?.attempt], [held?.run?.id, 1]);
    assert.notEqual(again?.leaseToken, held?.leaseToken);
  });

  void test('extending the lease of a locked run waits for it, and is not told that the lease is lost', async () => {
    await createRuns(2);
    const [locked, free] = await claim(2);
    assert.ok(locked && free);
    const client = await database.connect();
    await client.query('begin');
    await client.query('select from baton.runs where id = $1 for update', [locked.run?.id]);
    const late = baton.jobs.extendLeases({ leases: [tokenOf(locked)] });
    const [other] = (await soon(baton.jobs.extendLeases({ leases: [tokenOf(free)] }), 'the other')).results;
    assert.equal(other?.outcome, 1);
    await client.query('rollback');
    assert.equal((await within(late, 'the extension')).results[0]?.outcome, 1);
  });

  void test('a request_id in an open transaction holds up nobody without one', async () => {
    const client = await database.connect();
    await client.query('begin');
    await client.query(`insert into baton.runs (request_id) values ('open')`);
    const late = baton.jobs.createRun({ requestId: 'open' }).catch((error: unknown) => error);
    await soon(
      Promise.all(Array.from({ length: 20 }, () => baton.jobs.createRun({}))),
      'runs without a request_id',
    );
    const named = baton.jobs.createRun({ requestId: 'other' });
    await client.query('rollback');
    assert.ok(!((await within(late, 'the late one')) instanceof Error));
    await within(named, 'another request_id');
  });

  void test('what is reported of one run is applied in the order it was sent', async () => {
    const [id = ''] = await createRuns(1);
    const [held] = await claim();
    assert.ok(held);
    const steps = Array.from({ length: 20 }, (_, n) => ({
      ...{ ...tokenOf(held), status: 'initializing', statusMessage: `step ${n}` },
    }));
    const { results } = await baton.jobs.batchUpdateStatus({
      requests: [...steps, { ...tokenOf(held), status: 'initialized' }],
    });
    assert.ok(results.every(({ result }) => result.case === 'run'));
    const { events } = await baton.jobs.listRunEvents({ runId: id });
    const messages = events.flatMap(({ run, type }) =>
      type === EventType.UPDATED ? [run?.statusMessage] : [],
    );
    assert.deepEqual(
      messages,
      steps.map(({ statusMessage }) => statusMessage),
    );
  });

  void test('the same claim asked for twice at the same time is made once', async () => {
    await createRuns(4);
    const request = { stage: 'initialize', workerId: 'w', requestId: 'one' };
    const answers = await Promise.all(Array.from({ length: 6 }, () => baton.jobs.claimNext(request)));
    assert.equal(new Set(answers.flatMap(({ claims }) => claims.map(({ run }) => run?.id))).size, 1);
  });

  void test('a deadline is kept while a group waits, and nothing that was not sent is done', async () => {
    const client = await database.connect();
    // What every commit of a change needs.
    await client.query('select pg_advisory_lock(4773551914087416173)');
    const inFlight = baton.jobs.createRun({});
    await waitFor(async () => (await waitingForLock(database.pool)).length > 0, 'a group to be in flight');
    const error = await within(
      baton.jobs.createRun({}, { timeoutMs: 100 }).catch((thrown: unknown) => thrown),
      'the deadline',
      2500,
    );
    assert.equal(ConnectError.from(error).code, Code.DeadlineExceeded);
    // The client is told by its own clock: the server may hear of it later than of the commit.
    await waitFor(async () => {
      const metrics = await (await fetch(`${baton.httpUrl}/metrics`)).text();
      return metrics.includes('baton_group_waiting{group="create_run"} 1\n');
    }, 'the server to give the call up');
    await client.query('select pg_advisory_unlock(4773551914087416173)');
    await within(inFlight, 'the call in flight');
    await baton.jobs.createRun({});
    assert.equal((await baton.jobs.listRuns({ filter: {} })).runs.length, 2);
  });

  void test('the claim of an update whose caller has gone is handed back', async () => {
    const [, second = ''] = await createRuns(2);
    const [held] = await claim();
    assert.ok(held);
    const client = await database.connect();
    await client.query('select pg_advisory_lock(4773551914087416173)');
    const abort = new AbortController();
    const gone = failureOf(
      baton.jobs.updateStatus(
        { ...tokenOf(held), status: 'initialized', claimNext: { stage: 'initialize', workerId: 'gone' } },
        { signal: abort.signal },
      ),
    );
    await waitFor(async () => (await waitingForLock(database.pool)).length > 0, 'the commit to wait');
    abort.abort();
    await gone;
    await client.query('select pg_advisory_unlock(4773551914087416173)');
    await waitFor(async () => (await eventTypes(second)).includes('RELEASED'), 'the claim to be handed back');
    assert.equal((await baton.jobs.getRun({ id: second })).run?.attempt, 0);
  });

  for (const [name, url] of [
    ['gRPC', (): string => baton.grpcUrl],
    ['HTTP', (): string => baton.httpUrl],
  ] as const) {
    void test(`a claim is handed back when the connection breaks under its answer (${name})`, async () => {
      const [id = ''] = await createRuns(1);
      // A client that takes no byte of an answer: its window is closed.
      const session = connect(url(), { settings: { initialWindowSize: 0 } });
      const request = create(ClaimNextRequestSchema, { stage: 'initialize', workerId: 'w' });
      const body = toBinary(ClaimNextRequestSchema, request);
      const head = Buffer.alloc(5);
      head.writeUInt32BE(body.length, 1);
      const stream = session.request({
        ':method': 'POST',
        ':path': '/baton.v1.JobService/ClaimNext',
        'content-type': 'application/grpc',
        te: 'trailers',
      });
      stream.on('error', () => undefined);
      stream.end(Buffer.concat([head, body]));
      await waitFor(async () => (await eventTypes(id)).includes('CLAIMED'), 'the claim');
      assert.equal((await baton.jobs.getRun({ id })).run?.status, 'initializing');
      session.destroy(undefined, constants.NGHTTP2_CANCEL);
      await waitFor(async () => (await eventTypes(id)).includes('RELEASED'), 'the hand-back');
      assert.equal((await baton.jobs.getRun({ id })).run?.attempt, 0);
    });
  }

  const failureOf = (call: Promise<unknown>): Promise<unknown> => call.catch((error: unknown) => error);

  void test('an update that is refused in a group says why', async () => {
    await createRuns(3);
    const held = await claim(3);
    const refused = await Promise.all(
      held.map((item) => failure(baton.jobs.updateStatus({ ...tokenOf(item), status: 'success' }))),
    );
    assert.ok(refused.every(({ reason }) => reason === 'STATUS_NOT_ALLOWED'));
  });
});
