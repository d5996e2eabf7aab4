import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Code } from '@connectrpc/connect';
import { LeaseOutcome, type Claim } from '../../gen/baton/v1/job_service_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import type { QueryResultRow } from 'pg';
import { canceledError } from '../../src/base/errors.js';
import { AbortableSignal } from '../../src/rpc/call_signal.js';
import { cancelRun } from '../../src/service/cancel_runs.js';
import { retryRun } from '../../src/service/retry_runs.js';
import type { Queryable, Statement } from '../../src/store/pool.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const MISSING = '00000000-0000-7000-8000-000000000000';

describeOnEveryPostgres('what workers and operators do to runs', (open) => {
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

  const create = async (labels: Record<string, string> = {}): Promise<string> =>
    (await baton.jobs.createRun({ labels })).run?.id ?? '';

  const claim = async (
    stage = 'initialize',
    fields: { leaseDuration?: { seconds: bigint } } = {},
  ): Promise<Claim> => {
    const { claims } = await baton.jobs.claimNext({ stage, workerId: 'w', ...fields });
    assert.ok(claims[0], 'nothing to claim');
    return claims[0];
  };

  const tokenOf = (held: Claim) => ({ runId: held.run?.id ?? '', leaseToken: held.leaseToken });

  const eventTypes = async (runId: string): Promise<(string | undefined)[]> =>
    (await baton.jobs.listRunEvents({ runId })).events.map((event) => EventType[event.type]);

  void test('ExtendLeases: a heartbeat is no event, news are one, a lost lease is told', async () => {
    const id = await create();
    const held = await claim();
    const plain = await baton.jobs.extendLeases({
      leases: [tokenOf(held)],
      leaseDuration: { seconds: 600n },
    });
    assert.equal(plain.results[0]?.outcome, LeaseOutcome.OK);
    assert.ok(
      (plain.results[0].leaseExpireTime?.seconds ?? 0n) > (held.leaseExpireTime?.seconds ?? 0n) + 500n,
    );
    assert.deepEqual(await eventTypes(id), ['CREATED', 'CLAIMED']);
    const shorter = await baton.jobs.extendLeases({
      leases: [tokenOf(held)],
      leaseDuration: { seconds: 1n },
    });
    assert.deepEqual(
      shorter.results[0]?.leaseExpireTime,
      plain.results[0].leaseExpireTime,
      'never shortened',
    );
    const news = await baton.jobs.extendLeases({
      leases: [{ ...tokenOf(held), progress: 0.25, statusMessage: 'at it', checkpoint: { row: 7 } }],
    });
    assert.equal(news.results[0]?.outcome, LeaseOutcome.OK);
    const run = (await baton.jobs.getRun({ id })).run;
    assert.deepEqual(
      [run?.progress, run?.statusMessage, run?.checkpoint, run?.version],
      [0.25, 'at it', { row: 7 }, 3n],
    );
    await baton.jobs.cancelRun({ runId: id });
    await create();
    const lost = await claim();
    await baton.jobs.updateStatus({ ...tokenOf(lost), status: 'new' });
    const { results } = await baton.jobs.extendLeases({
      leases: [tokenOf(held), tokenOf(lost), { runId: MISSING, leaseToken: 'x' }],
    });
    assert.deepEqual(
      results.map((result) => LeaseOutcome[result.outcome]),
      ['CANCEL_REQUESTED', 'LEASE_LOST', 'LEASE_LOST'],
    );
    const twice = await failure(baton.jobs.extendLeases({ leases: [tokenOf(held), tokenOf(held)] }));
    assert.deepEqual(twice.fields, ['leases[1].run_id']);
  });

  void test('the checkpoint of an attempt is handed to the next one', async () => {
    await create();
    const first = await claim('initialize', { leaseDuration: { seconds: 1n } });
    await baton.jobs.updateStatus({ ...tokenOf(first), status: 'initializing', checkpoint: { row: 41 } });
    const second = await within(
      baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 20n } }),
      'the next attempt',
      15_000,
    );
    assert.deepEqual(second.claims[0]?.run?.checkpoint, { row: 41 });
    assert.equal(second.claims[0].run?.attempt, 2);
  });

  void test('claim_next completes one run and claims the next in one step', async () => {
    await create();
    const second = await create();
    const held = await claim();
    const answer = await baton.jobs.updateStatus({
      ...tokenOf(held),
      status: 'initialized',
      claimNext: { stage: 'initialize', workerId: 'w' },
    });
    assert.equal(answer.run?.status, 'initialized');
    assert.equal(answer.claims[0]?.run?.id, second);
    const next = tokenOf(answer.claims[0]);
    const refused = await failure(
      baton.jobs.updateStatus({ ...next, status: 'initialized', claimNext: { stage: 'nowhere' } }),
    );
    assert.equal(refused.reason, 'STAGE_NOT_FOUND');
    assert.equal((await baton.jobs.getRun({ id: second })).run?.status, 'initializing', 'nothing was done');
    const waiting = baton.jobs.updateStatus({
      ...next,
      status: 'initialized',
      claimNext: { stage: 'initialize', wait: { seconds: 20n } },
    });
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the claim to wait');
    const third = await create();
    assert.equal((await within(waiting, 'the next claim')).claims[0]?.run?.id, third);
    const bad = await failure(
      baton.jobs.updateStatus({ ...next, status: 'initialized', claimNext: { stage: '', maxRuns: -1 } }),
    );
    assert.deepEqual(bad.fields, ['claim_next.stage', 'claim_next.max_runs']);
  });

  void test('ClaimNext with a request_id gives the same claims again while they live', async () => {
    for (let index = 0; index < 4; index += 1) await create();
    const request = { stage: 'initialize', workerId: 'w', maxRuns: 2, requestId: 'once' };
    const first = await baton.jobs.claimNext(request);
    const again = await baton.jobs.claimNext(request);
    assert.deepEqual(again.claims, first.claims);
    const others = await baton.jobs.claimNext({ ...request, workerId: 'v' });
    assert.ok(others.claims.every((item) => !first.claims.some((own) => own.run?.id === item.run?.id)));
    for (const item of first.claims) await baton.jobs.updateStatus({ ...tokenOf(item), status: 'new' });
    assert.equal(
      (await baton.jobs.claimNext(request)).claims.length,
      2,
      'none is left of the first, so it claims anew',
    );
  });

  void test('a ClaimNext that repeats one which ended in the same moment is answered', async () => {
    const { claims } = baton.server.service;
    const key = { pipeline: 'ci', stage: 'initialize' };
    const onUndelivered = (): void => undefined;
    // Two that wait, and a run for one of them: from then on nobody is woken but by news.
    const waiting = [1, 2].map(() => baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 30n } }));
    await waitFor(() => claims.waiting === 2, 'both to wait');
    await create();
    await Promise.race(waiting);
    await baton.jobs.claimNext({ stage: 'initialize' });
    // A look of the server's own, which comes now and then, must not be what helps.
    for (const requestId of ['one', 'two', 'three']) {
      const slot = { workerId: 'w', maxRuns: 1, leaseMs: 0, requestId };
      const gone = new AbortableSignal();
      const first = claims.claim(key, slot, 20_000, { signal: gone, onUndelivered });
      // All before the first one's turn, as when they are read from the network at once.
      gone.abort(canceledError());
      const second = claims.claim(key, slot, 0, { signal: new AbortableSignal(), onUndelivered });
      await assert.rejects(first, { reason: 'CANCELED' });
      assert.deepEqual(await within(second, 'the second answer', 5000), []);
    }
    await create();
    await Promise.all(waiting);
  });

  void test('BatchUpdateStatus: every item stands alone, in order', async () => {
    for (let index = 0; index < 4; index += 1) await create();
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize', maxRuns: 4 });
    const [a, b, c, d] = claims.map(tokenOf);
    assert.ok(a && b && c && d);
    const { results } = await baton.jobs.batchUpdateStatus({
      requests: [
        { ...a, status: 'initializing', progress: 0.5 },
        { ...a, status: 'initialized' },
        { ...b, status: 'success' },
        { ...c, leaseToken: 'gone', status: 'initialized' },
        { ...d, status: 'initialized', progress: 7 },
        { ...d, status: 'initialized', output: { n: 1 } },
        { ...a, status: 'initialized' },
      ],
    });
    assert.deepEqual(
      results.map(({ result }) => (result.case === 'run' ? result.value.status : result.value?.code)),
      [
        'initializing',
        'initialized',
        Code.FailedPrecondition,
        Code.Aborted,
        Code.InvalidArgument,
        'initialized',
        'initialized',
      ],
    );
  });

  void test('CancelRun: what waits ends at once, a worker is told, what has ended stays', async () => {
    const waiting = await create();
    const canceled = await baton.jobs.cancelRun({ runId: waiting, reason: 'not needed' });
    assert.deepEqual([canceled.run?.state, canceled.run?.statusMessage], [RunState.CANCELED, 'not needed']);
    assert.equal(
      (await baton.jobs.cancelRun({ runId: waiting })).run?.version,
      canceled.run?.version,
      'repeating changes nothing',
    );

    const active = await create();
    const held = await claim();
    assert.equal((await baton.jobs.cancelRun({ runId: active })).run?.state, RunState.ACTIVE);
    const told = await baton.jobs.updateStatus({ ...tokenOf(held), status: 'initializing', progress: 0.1 });
    assert.equal(told.cancelRequested, true);
    // A worker that does not listen and completes its stage: the run does not wait for the next one.
    const done = await baton.jobs.updateStatus({ ...tokenOf(held), status: 'initialized' });
    assert.equal(done.run?.state, RunState.CANCELED);
    assert.equal(
      (await baton.jobs.updateStatus({ ...tokenOf(held), status: 'initialized' })).run?.version,
      done.run?.version,
    );
    assert.deepEqual(await eventTypes(active), [
      'CREATED',
      'CLAIMED',
      'CANCEL_REQUESTED',
      'UPDATED',
      'CANCELED',
    ]);

    const finished = await create();
    const last = await claim();
    await baton.jobs.updateStatus({ ...tokenOf(last), status: 'error' });
    assert.equal((await failure(baton.jobs.cancelRun({ runId: finished }))).reason, 'RUN_TERMINAL');
    assert.equal((await failure(baton.jobs.cancelRun({ runId: MISSING }))).reason, 'RUN_NOT_FOUND');
  });

  void test('RetryRun: waits again for the stage in which it ended, or for another one', async () => {
    const id = await create();
    const first = await claim();
    assert.equal((await failure(baton.jobs.retryRun({ runId: id }))).reason, 'RUN_NOT_TERMINAL');
    await baton.jobs.updateStatus({ ...tokenOf(first), status: 'initialized' });
    const second = await claim('run');
    await baton.jobs.updateStatus({
      ...tokenOf(second),
      status: 'error',
      error: { code: 'X', message: 'y' },
    });
    const retried = (await baton.jobs.retryRun({ runId: id })).run;
    assert.deepEqual(
      [retried?.status, retried?.stage, retried?.attempt, retried?.error, retried?.endTime],
      ['initialized', 'run', 0, undefined, undefined],
    );
    const third = await claim('run');
    await baton.jobs.updateStatus({ ...tokenOf(third), status: 'success' });
    const again = (await baton.jobs.retryRun({ runId: id, stage: 'initialize' })).run;
    assert.deepEqual([again?.status, again?.stage], ['new', 'initialize']);
    await baton.jobs.cancelRun({ runId: id });
    assert.equal(
      (await failure(baton.jobs.retryRun({ runId: id, stage: 'nowhere' }))).reason,
      'STAGE_NOT_FOUND',
    );
  });

  void test('a cancel and a retry that cross another change of the run say what is true', async () => {
    /** The database, where something else happens after the first statement. */
    const crossing = (change: () => Promise<unknown>): Queryable => {
      let isFirst = true;
      return {
        commits: true,
        async query<Row extends QueryResultRow>(statement: string | Statement, values?: unknown[]) {
          const rows = await database.pool.query<Row>(statement, values);
          if (isFirst) await change();
          isFirst = false;
          return rows;
        },
      };
    };
    const runId = await create();
    const retried = await retryRun(
      crossing(() => baton.jobs.cancelRun({ runId })),
      { runId, stage: '' },
    );
    assert.equal(retried.state, 'PENDING', 'it had ended by then');
    await baton.jobs.updateStatus({ ...tokenOf(await claim()), status: 'error' });
    const retry = crossing(() => baton.jobs.retryRun({ runId }));
    await assert.rejects(cancelRun(retry, { runId, reason: '' }), { reason: 'DATABASE_UNAVAILABLE' });
    assert.equal((await baton.jobs.cancelRun({ runId })).run?.state, RunState.CANCELED);
  });

  void test('CancelRuns and RetryRuns go by filter, in steps, and count', async () => {
    const labels = { batch: 'x' };
    await baton.jobs.batchCreateRuns({ requests: Array.from({ length: 700 }, () => ({ labels })) });
    await create();
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize', maxRuns: 5 });
    const counts = await baton.jobs.cancelRuns({ filter: { labels }, reason: 'enough' });
    assert.deepEqual(
      [counts.matchedCount, counts.canceledCount, counts.cancelRequestedCount],
      [700n, 695n, 5n],
    );
    assert.equal(claims.length, 5);
    const retried = await baton.jobs.retryRuns({ filter: { labels } });
    assert.deepEqual([retried.matchedCount, retried.retriedCount], [695n, 695n]);
    assert.deepEqual((await failure(baton.jobs.cancelRuns({}))).fields, ['filter']);
  });

  void test('a paused stage gives no claims until it is resumed; creates go on', async () => {
    await baton.pipelines.pausePipeline({ name: 'ci', stage: 'initialize' });
    await create();
    assert.equal((await baton.jobs.claimNext({ stage: 'initialize' })).claims.length, 0);
    const waiting = baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 20n } });
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the claim to wait');
    const { pipeline } = await baton.pipelines.resumePipeline({ name: 'ci', stage: 'initialize' });
    assert.equal(pipeline?.stages[0]?.paused, false);
    assert.equal((await within(waiting, 'the claim after the pause', 5000)).claims.length, 1);
    await baton.pipelines.pausePipeline({ name: 'ci' });
    await create();
    assert.equal((await baton.jobs.claimNext({ stage: 'initialize' })).claims.length, 0);
    assert.equal(
      (await failure(baton.pipelines.pausePipeline({ name: 'ci', stage: 'x' }))).reason,
      'STAGE_NOT_FOUND',
    );
    assert.equal((await failure(baton.pipelines.resumePipeline({ name: 'x' }))).reason, 'PIPELINE_NOT_FOUND');
  });

  void test('DeletePipeline is refused while runs are open', async () => {
    await baton.pipelines.putPipeline({
      pipeline: { name: 'p', stages: [{ name: 's', processingStatus: 'at', doneStatus: 'done' }] },
    });
    const { run } = await baton.jobs.createRun({ pipeline: 'p' });
    assert.equal((await failure(baton.pipelines.deletePipeline({ name: 'p' }))).reason, 'PIPELINE_IN_USE');
    await baton.jobs.cancelRun({ runId: run?.id ?? '' });
    await baton.pipelines.deletePipeline({ name: 'p' });
    assert.equal((await failure(baton.jobs.createRun({ pipeline: 'p' }))).reason, 'PIPELINE_NOT_FOUND');
    assert.equal((await baton.jobs.getRun({ id: run?.id ?? '' })).run?.status, 'canceled', 'its runs stay');
    assert.equal((await failure(baton.pipelines.deletePipeline({ name: 'p' }))).reason, 'PIPELINE_NOT_FOUND');
  });

  void test('a timeout ends an attempt however often its lease is extended', async () => {
    const stage = {
      name: 's',
      processingStatus: 'at',
      doneStatus: 'done',
      timeout: { seconds: 2n },
      backoff: { initial: {} },
    };
    await baton.pipelines.putPipeline({ pipeline: { name: 'p', stages: [stage] } });
    const id = (await baton.jobs.createRun({ pipeline: 'p', maxAttempts: 1 })).run?.id ?? '';
    const { claims } = await baton.jobs.claimNext({ pipeline: 'p', stage: 's' });
    const held = claims[0];
    assert.ok(held);
    const extended = await baton.jobs.extendLeases({
      leases: [tokenOf(held)],
      leaseDuration: { seconds: 600n },
    });
    assert.equal(extended.results[0]?.outcome, LeaseOutcome.OK);
    const ended = async (): Promise<boolean> =>
      (await baton.jobs.getRun({ id })).run?.state === RunState.FAILED;
    await waitFor(ended, 'the attempt to time out', 6000);
    assert.equal((await baton.jobs.getRun({ id })).run?.error?.code, 'ATTEMPT_TIMED_OUT');
  });

  void test('max_active and max_active_per_key are never exceeded, by several servers, and room is used at once', async () => {
    const other = await startTestServer(database.url);
    const servers = [baton, other];
    const stage = { name: 's', processingStatus: 'at', doneStatus: 'done', maxActive: 5, maxActivePerKey: 2 };
    await baton.pipelines.putPipeline({ pipeline: { name: 'p', stages: [stage] } });
    const total = 60;
    const requests = Array.from({ length: total }, (_, n) => ({
      pipeline: 'p',
      repository: `repo-${n < 40 ? 0 : n % 4}`,
    }));
    await baton.jobs.batchCreateRuns({ requests });
    let finished = 0;
    const work = async (index: number): Promise<void> => {
      const { jobs } = servers[index % 2] ?? baton;
      while (finished < total) {
        const { claims } = await jobs.claimNext({ pipeline: 'p', stage: 's', wait: { nanos: 500_000_000 } });
        for (const held of claims) {
          await jobs.updateStatus({ ...tokenOf(held), status: 'done' });
          finished += 1;
        }
      }
    };
    await within(
      Promise.all(Array.from({ length: 16 }, (_, index) => work(index))),
      'all runs to finish',
      60_000,
    );
    await other.stop();
    // The log says how many were at work after each change.
    const events = await database.pool.query<{ run_id: string; repository: string; state: string }>(
      `select run_id::text, repository, state::text from baton.run_events where pipeline = 'p' order by revision`,
    );
    const active = new Map<string, string>();
    let most = 0;
    let mostOfKey = 0;
    for (const event of events) {
      if (event.state === 'ACTIVE') active.set(event.run_id, event.repository);
      else active.delete(event.run_id);
      most = Math.max(most, active.size);
      const ofKey = [...active.values()].filter((repository) => repository === event.repository).length;
      mostOfKey = Math.max(mostOfKey, ofKey);
    }
    assert.deepEqual(
      [finished, most <= 5, mostOfKey <= 2],
      [total, true, true],
      `${most} at once, ${mostOfKey} of one key`,
    );
    assert.ok(most >= 3 && mostOfKey === 2, 'the limits were reached');
  });

  void test('a call that waits for room is answered when a run leaves the stage', async () => {
    const stage = { name: 's', processingStatus: 'at', doneStatus: 'done', maxActive: 1 };
    await baton.pipelines.putPipeline({ pipeline: { name: 'p', stages: [stage] } });
    await baton.jobs.batchCreateRuns({ requests: [{ pipeline: 'p' }, { pipeline: 'p' }] });
    const { claims } = await baton.jobs.claimNext({ pipeline: 'p', stage: 's', maxRuns: 2 });
    assert.equal(claims.length, 1);
    const waiting = baton.jobs.claimNext({ pipeline: 'p', stage: 's', wait: { seconds: 30n } });
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the claim to wait');
    assert.ok(claims[0]);
    const answer = await baton.jobs.updateStatus({
      ...tokenOf(claims[0]),
      status: 'done',
    });
    assert.equal(answer.run?.state, RunState.SUCCEEDED);
    assert.equal((await within(waiting, 'the claim that waits for room', 5000)).claims.length, 1);
  });
});
