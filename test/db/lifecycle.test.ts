import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Code } from '@connectrpc/connect';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import type { JsonObject } from '@bufbuild/protobuf';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { assertTook, waitFor, within } from '../support/wait.js';

const defined = <T>(value: T | undefined): T => {
  assert.ok(value !== undefined);
  return value;
};

describeOnEveryPostgres('a run from CreateRun to success', (open) => {
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

  const create = async (
    fields: { repository?: string; priority?: number; pipeline?: string } = {},
  ): Promise<Run> => defined((await baton.jobs.createRun(fields)).run);

  const claim = async (stage: string, workerId = 'worker') => {
    const { claims } = await baton.jobs.claimNext({ stage, workerId });
    return defined(claims[0]);
  };

  void test('passes through both stages of the ci pipeline', async () => {
    const { jobs } = baton;
    const created = await create({ repository: 'git@example.com:a/b' });
    assert.equal(created.status, 'new');
    assert.equal(created.state, RunState.PENDING);
    assert.equal(created.stage, 'initialize');
    assert.equal(created.version, 1n);

    const first = await claim('initialize', 'initializer');
    assert.equal(first.run?.id, created.id);
    assert.equal(first.run?.status, 'initializing');
    assert.equal(first.run?.attempt, 1);
    const handed = await jobs.updateStatus({
      runId: created.id,
      leaseToken: first.leaseToken,
      status: 'initialized',
      output: { commit: 'abc', nested: { list: [1, 'x', null, true] } },
    });
    assert.equal(handed.run?.state, RunState.PENDING);
    assert.equal(handed.run?.stage, 'run');
    assert.equal(handed.run?.attempt, 0);

    const second = await claim('run', 'runner');
    assert.deepEqual(second.run?.output, { commit: 'abc', nested: { list: [1, 'x', null, true] } });
    await jobs.updateStatus({
      runId: created.id,
      leaseToken: second.leaseToken,
      status: 'running',
      progress: 0.5,
      statusMessage: 'half way',
    });
    const done = defined(
      (
        await jobs.updateStatus({
          runId: created.id,
          leaseToken: second.leaseToken,
          status: 'success',
          output: { exit_code: 0 },
        })
      ).run,
    );
    assert.equal(done.status, 'success');
    assert.equal(done.state, RunState.SUCCEEDED);
    assert.equal(done.stage, '');
    assert.ok(done.startTime && done.endTime);
    assert.equal(done.leaseExpireTime, undefined);

    const { events } = await jobs.listRunEvents({ runId: created.id, includePayload: true });
    assert.deepEqual(
      events.map((event) => [event.version, EventType[event.type], event.previousStatus, event.run?.status]),
      [
        [1n, 'CREATED', '', 'new'],
        [2n, 'CLAIMED', 'new', 'initializing'],
        [3n, 'STAGE_COMPLETED', 'initializing', 'initialized'],
        [4n, 'CLAIMED', 'initialized', 'running'],
        [5n, 'UPDATED', 'running', 'running'],
        [6n, 'SUCCEEDED', 'running', 'success'],
      ],
    );
    // Each event keeps what the run was then.
    assert.deepEqual(
      events.map((event) => event.run?.output),
      [
        undefined,
        undefined,
        { commit: 'abc', nested: { list: [1, 'x', null, true] } },
        { commit: 'abc', nested: { list: [1, 'x', null, true] } },
        { commit: 'abc', nested: { list: [1, 'x', null, true] } },
        { exit_code: 0 },
      ],
    );
    assert.equal(events[4]?.run?.progress, 0.5);
    assert.equal(events[1]?.run?.workerId, 'initializer');
    const got = defined((await other.jobs.getRun({ id: created.id })).run);
    assert.deepEqual(got, { ...done, output: { exit_code: 0 } });
  });

  void test('curl creates, claims and finishes a run', async () => {
    const post = async (
      method: string,
      body: unknown,
    ): Promise<{ status: number; json: Record<string, unknown> }> => {
      const response = await fetch(`${baton.httpUrl}/baton.v1.JobService/${method}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify(body),
      });
      return { status: response.status, json: (await response.json()) as Record<string, unknown> };
    };
    const created = await post('CreateRun', { repository: 'hello', input: { n: 1 } });
    assert.equal(created.status, 200);
    const id = (created.json['run'] as { id: string }).id;
    for (const [stage, status] of [
      ['initialize', 'initialized'],
      ['run', 'success'],
    ]) {
      const claimed = await post('ClaimNext', { stage, workerId: 'curl' });
      const [item] = claimed.json['claims'] as { run: { id: string }; leaseToken: string }[];
      assert.equal(item?.run.id, id);
      const updated = await post('UpdateStatus', { runId: id, leaseToken: item.leaseToken, status });
      assert.equal(updated.status, 200);
      assert.equal((updated.json['run'] as { status: string }).status, status);
    }
    const missing = await post('GetRun', { id: '00000000-0000-7000-8000-000000000000' });
    assert.equal(missing.status, 404);
    assert.equal(missing.json['code'], 'not_found');
  });

  void test('claims go by priority, then by age, and every run to one worker only', async () => {
    const low = await create({ priority: 1 });
    const older = await create({ priority: 5 });
    const newer = await create({ priority: 5 });
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize', maxRuns: 10 });
    assert.deepEqual(
      claims.map((item) => item.run?.id),
      [older.id, newer.id, low.id],
    );

    const count = 200;
    await baton.jobs.batchCreateRuns({ requests: Array.from({ length: count }, () => ({})) });
    const ids = new Set<string>();
    const work = async (server: TestServer): Promise<void> => {
      for (;;) {
        const answer = await server.jobs.claimNext({ stage: 'initialize', maxRuns: 3 });
        if (answer.claims.length === 0) return;
        for (const item of answer.claims) {
          assert.ok(!ids.has(item.run?.id ?? ''), 'claimed twice');
          ids.add(item.run?.id ?? '');
        }
      }
    };
    await Promise.all(Array.from({ length: 16 }, (_, index) => work(index % 2 === 0 ? baton : other)));
    assert.equal(ids.size, count);
  });

  void test('a waiting ClaimNext is answered for a run from here, from another server and from SQL', async () => {
    const sources = [
      () => baton.jobs.createRun({}),
      () => other.jobs.createRun({}),
      () => database.pool.query(`insert into baton.runs (repository) values ('by sql')`),
    ];
    for (const source of sources) {
      const waiting = baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 20n } });
      await waitFor(() => baton.server.service.claims.waiting === 1, 'the call to wait');
      await source();
      const { claims } = await within(waiting, 'the waiting claim', 5000);
      assert.equal(claims.length, 1);
    }
  });

  void test('a wait without work ends empty, and one that is canceled takes nothing', async () => {
    const empty = await baton.jobs.claimNext({ stage: 'initialize', wait: { nanos: 200_000_000 } });
    assert.deepEqual(empty.claims, []);
    const abort = new AbortController();
    const waiting = baton.jobs.claimNext(
      { stage: 'initialize', wait: { seconds: 20n } },
      { signal: abort.signal },
    );
    const settled = waiting.then(
      () => 'answered',
      () => 'canceled',
    );
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the call to wait');
    abort.abort();
    assert.equal(await settled, 'canceled');
    await waitFor(() => baton.server.service.claims.waiting === 0, 'the call to be gone');
    const run = await create();
    // A statement that was under way for the canceled call may have it: then it is handed back.
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 10n } });
    assert.equal(claims[0]?.run?.id, run.id);
  });

  void test('each waiter gets its run, one for each', async () => {
    const waits = Array.from({ length: 20 }, (_, index) =>
      (index % 2 === 0 ? baton : other).jobs.claimNext({
        stage: 'initialize',
        wait: { seconds: 20n },
        workerId: `w${index}`,
      }),
    );
    await waitFor(
      () => baton.server.service.claims.waiting + other.server.service.claims.waiting === 20,
      'all to wait',
    );
    await Promise.all(Array.from({ length: 20 }, () => create()));
    const answers = await within(Promise.all(waits), 'all claims', 10_000);
    const ids = answers.flatMap((answer) => answer.claims.map((item) => item.run?.id));
    assert.equal(new Set(ids).size, 20);
  });

  void test('a token that lost its lease changes nothing; a repeated update succeeds and changes nothing', async () => {
    const run = await create();
    const held = await claim('initialize');
    const report = { runId: run.id, leaseToken: held.leaseToken, status: 'initialized', output: { a: 1 } };
    await baton.jobs.updateStatus(report);
    const again = await other.jobs.updateStatus(report);
    assert.equal(again.run?.version, 3n);
    const second = await claim('run');
    assert.equal((await baton.jobs.updateStatus(report)).run?.status, 'running');
    for (const stale of [
      { ...report, status: 'error' },
      { ...report, output: { a: 2 } },
      {
        ...report,
        leaseToken: `${held.leaseToken.slice(0, -1)}${held.leaseToken.endsWith('A') ? 'B' : 'A'}`,
      },
      { ...report, leaseToken: 'never given to anybody' },
    ]) {
      const lost = await failure(baton.jobs.updateStatus(stale));
      assert.equal(lost.code, Code.Aborted);
      assert.equal(lost.reason, 'LEASE_LOST');
    }
    assert.equal((await baton.jobs.getRun({ id: run.id })).run?.version, second.run?.version);
  });

  void test('an ended lease is found out and the run waits again', async () => {
    const run = await create();
    const held = defined(
      (await baton.jobs.claimNext({ stage: 'initialize', leaseDuration: { seconds: 1n } })).claims[0],
    );
    const settled = async (): Promise<boolean> =>
      (await baton.jobs.getRun({ id: run.id })).run?.status === 'new';
    await waitFor(settled, 'the lease to end', 5000);
    const lost = await failure(
      baton.jobs.updateStatus({ runId: run.id, leaseToken: held.leaseToken, status: 'initialized' }),
    );
    assert.equal(lost.reason, 'LEASE_LOST');
    const { events } = await baton.jobs.listRunEvents({ runId: run.id });
    const expired = defined(events.at(-1));
    assert.equal(expired.type, EventType.LEASE_EXPIRED);
    const dueMs = timestampMs(defined(expired.run?.scheduleTime));
    const afterMs = dueMs - timestampMs(defined(held.leaseExpireTime));
    assert.ok(afterMs >= 750, `claimable ${afterMs} ms after the end of its lease`);
    assertTook('until a run is claimable after the end of its lease', afterMs, 2000);
    // After the backoff of about a second a waiting worker gets it, although no event announces that moment.
    const next = await within(
      baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 10n } }),
      'the next attempt',
    );
    assert.equal(next.claims[0]?.run?.attempt, 2);
  });

  void test('error, retry, hand back and cancel by the worker', async () => {
    const run = await create();
    const back = await claim('initialize');
    const released = await baton.jobs.updateStatus({
      runId: run.id,
      leaseToken: back.leaseToken,
      status: 'new',
    });
    assert.equal(released.run?.attempt, 0);
    const failing = await claim('initialize');
    assert.equal(failing.run?.attempt, 1);
    const retried = await baton.jobs.updateStatus({
      runId: run.id,
      leaseToken: failing.leaseToken,
      status: 'error',
      error: { code: 'FLAKY', message: 'try again', retryable: true, retryDelay: {} },
    });
    assert.equal(retried.run?.status, 'new');
    assert.deepEqual([retried.run?.error?.code, retried.run?.error?.message], ['FLAKY', 'try again']);
    const last = await claim('initialize');
    assert.equal(last.run?.attempt, 2);
    const failed = await baton.jobs.updateStatus({
      runId: run.id,
      leaseToken: last.leaseToken,
      status: 'error',
      error: { code: 'BROKEN', message: 'for good' },
    });
    assert.equal(failed.run?.state, RunState.FAILED);
    const canceled = await create();
    const held = await claim('initialize');
    const ended = await baton.jobs.updateStatus({
      runId: canceled.id,
      leaseToken: held.leaseToken,
      status: 'canceled',
    });
    assert.equal(ended.run?.state, RunState.CANCELED);
  });

  void test('a status that is not allowed is refused with the ones that are', async () => {
    const run = await create();
    const held = await claim('initialize');
    const refused = await failure(
      baton.jobs.updateStatus({ runId: run.id, leaseToken: held.leaseToken, status: 'success' }),
    );
    assert.equal(refused.code, Code.FailedPrecondition);
    assert.equal(refused.reason, 'STATUS_NOT_ALLOWED');
    assert.equal(refused.metadata['allowed_statuses'], 'initialized,error,canceled,new,initializing');
    const misplaced = await failure(
      baton.jobs.updateStatus({
        runId: run.id,
        leaseToken: held.leaseToken,
        status: 'initialized',
        error: { code: 'X' },
      }),
    );
    assert.deepEqual(misplaced.fields, ['error']);
  });

  void test('the same request_id returns the first run, other content is refused', async () => {
    const request = {
      requestId: 'r-1',
      repository: 'a',
      input: { b: 1, a: [2] },
      labels: { x: 'y', a: 'b' },
    };
    const first = await baton.jobs.createRun(request);
    const again = await other.jobs.createRun({
      ...request,
      input: { a: [2], b: 1 },
      labels: { a: 'b', x: 'y' },
    });
    assert.deepEqual(again.run, first.run);
    const reused = await failure(baton.jobs.createRun({ ...request, repository: 'b' }));
    assert.equal(reused.code, Code.AlreadyExists);
    const racing = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        (index % 2 === 0 ? baton : other).jobs.createRun({ requestId: 'r-2' }),
      ),
    );
    assert.equal(new Set(racing.map((answer) => answer.run?.id)).size, 1);
    const batch = await baton.jobs.batchCreateRuns({
      requests: [{ requestId: 'r-3' }, {}, { requestId: 'r-3' }, request],
    });
    assert.equal(batch.runs[0]?.id, batch.runs[2]?.id);
    assert.equal(batch.runs[3]?.id, first.run?.id);
    const before = (await baton.jobs.listRuns({ pageSize: 1000 })).runs.length;
    await failure(baton.jobs.batchCreateRuns({ requests: [{}, { ...request, repository: 'b' }] }));
    assert.equal((await baton.jobs.listRuns({ pageSize: 1000 })).runs.length, before, 'all or nothing');
  });

  void test('every violation of a request is named, alike over gRPC and Connect', async () => {
    const bad = {
      pipeline: 'No Good',
      repository: 'x'.repeat(257),
      labels: { '': 'v', ok: 'y\u0000' },
      priority: 10,
      maxAttempts: -1,
      traceParent: 'nope',
      input: { deep: 'a\u0000b' },
    };
    const overGrpc = await failure(baton.jobs.createRun(bad));
    const overHttp = await failure(baton.httpJobs.createRun(bad));
    assert.deepEqual(overGrpc, overHttp);
    assert.equal(overGrpc.code, Code.InvalidArgument);
    assert.deepEqual([...overGrpc.fields].sort(), [
      'input',
      'labels[""]',
      'labels["ok"]',
      'max_attempts',
      'pipeline',
      'priority',
      'repository',
      'trace_parent',
    ]);
    const deep = (depth: number): JsonObject => (depth === 1 ? { x: 1 } : { x: deep(depth - 1) });
    const made = (await baton.jobs.createRun({ input: deep(29) })).run;
    assert.deepEqual((await baton.jobs.getRun({ id: made?.id ?? '' })).run?.input, deep(29));
    assert.deepEqual((await failure(baton.jobs.createRun({ input: deep(30) }))).fields, ['input']);
    const nested = await failure(baton.jobs.batchCreateRuns({ requests: [{}, { priority: -1 }] }));
    assert.deepEqual(nested.fields, ['requests[1].priority']);
    for (const [call, reason] of [
      [() => baton.jobs.createRun({ pipeline: 'unknown' }), 'PIPELINE_NOT_FOUND'],
      [() => baton.jobs.claimNext({ pipeline: 'unknown', stage: 'x' }), 'PIPELINE_NOT_FOUND'],
      [() => baton.jobs.claimNext({ stage: 'unknown' }), 'STAGE_NOT_FOUND'],
      [() => baton.pipelines.getStats({ pipeline: 'unknown' }), 'PIPELINE_NOT_FOUND'],
      [() => baton.jobs.cancelRun({ runId: '00000000-0000-7000-8000-000000000000' }), 'RUN_NOT_FOUND'],
    ] as const) {
      assert.equal((await failure(call())).reason, reason);
    }
  });

  void test('lists newest first, page by page, with a filter', async () => {
    const made: string[] = [];
    for (let index = 0; index < 7; index += 1) {
      const { run } = await baton.jobs.createRun({
        labels: { parity: index % 2 === 0 ? 'even' : 'odd', n: String(index) },
      });
      made.unshift(run?.id ?? '');
    }
    const seen: string[] = [];
    let pageToken = '';
    do {
      const page = await baton.jobs.listRuns({ pageSize: 3, pageToken });
      seen.push(...page.runs.map((run) => run.id));
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    assert.deepEqual(seen, made);
    const filter = { labels: { parity: 'odd' } };
    const odd = await baton.jobs.listRuns({ filter, pageSize: 2 });
    assert.equal(odd.runs.length, 2);
    const wrong = await failure(baton.jobs.listRuns({ pageToken: odd.nextPageToken }));
    assert.deepEqual(wrong.fields, ['page_token']);
    assert.equal((await baton.jobs.listRuns({ filter: { statuses: ['running'] } })).runs.length, 0);
  });

  void test('a pipeline of one’s own works at once on every server', async () => {
    const stages = [
      { name: 'build', processingStatus: 'building', doneStatus: 'built' },
      { name: 'deploy', processingStatus: 'deploying', doneStatus: 'live' },
    ];
    const put = defined((await baton.pipelines.putPipeline({ pipeline: { name: 'web', stages } })).pipeline);
    assert.equal(put.generation, 1n);
    assert.deepEqual(
      put.stages.map((stage) => [stage.waitingStatus, stage.maxAttempts]),
      [
        ['new', 3],
        ['built', 3],
      ],
    );
    await create({ pipeline: 'web' });
    const built = defined((await other.jobs.claimNext({ pipeline: 'web', stage: 'build' })).claims[0]);
    await other.jobs.updateStatus({
      runId: built.run?.id ?? '',
      leaseToken: built.leaseToken,
      status: 'built',
    });

    // A stage is put between while a run waits: the run meets it at its next step.
    const more = [
      stages[0],
      { name: 'verify', processingStatus: 'verifying', doneStatus: 'verified' },
      stages[1],
    ] as typeof stages;
    await baton.pipelines.putPipeline({ pipeline: { name: 'web', stages: more } });
    assert.equal((await other.jobs.claimNext({ pipeline: 'web', stage: 'deploy' })).claims.length, 0);
    assert.equal((await other.jobs.claimNext({ pipeline: 'web', stage: 'verify' })).claims.length, 1);

    const stranded = await failure(baton.pipelines.putPipeline({ pipeline: { name: 'web', stages } }));
    assert.equal(stranded.reason, 'PIPELINE_IN_USE');
    const ambiguous = await failure(
      baton.pipelines.putPipeline({
        pipeline: { name: 'bad', stages: [{ name: 'a', processingStatus: 'new', doneStatus: 'error' }] },
      }),
    );
    assert.deepEqual(ambiguous.fields, ['pipeline.stages[0].processing_status', 'pipeline.error_status']);
    const { pipelines } = await baton.pipelines.listPipelines({});
    assert.deepEqual(
      pipelines.map((pipeline) => pipeline.name),
      ['ci', 'web'],
    );
  });
});
