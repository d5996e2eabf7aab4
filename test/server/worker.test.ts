import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { create as createMessage } from '@bufbuild/protobuf';
import { durationFromMs, timestampMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type Client, type Interceptor, type Transport } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import type { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import { ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import {
  FinalFailure,
  HandBack,
  RetryLater,
  RunAborted,
  type RunHandler,
  type WorkerSettings,
} from '../../src/client/index.js';
import { freePorts } from '../support/free_ports.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnPostgres, type TestDatabase } from '../support/database.js';
import { Program } from '../support/example_ci.js';
import { ServerProcess } from '../support/process.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';
import { CallCounter, story, TestWorker } from '../support/workers.js';

/** What the README shows. */
const EXAMPLE = fileURLToPath(new URL('../../examples/workers/typescript/worker.js', import.meta.url));

const CLAIMED = ['CREATED new', 'CLAIMED initializing'];
const DONE = [...CLAIMED, 'STAGE_COMPLETED initialized'];

/** Undefined for anything but the reason of a handler's signal. */
const whyOf = (reason: unknown): string | undefined =>
  reason instanceof RunAborted ? reason.why : undefined;

describeOnPostgres('the worker of baton/client', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let jobs: Client<typeof JobService>;
  /** Undone after each test, the last first. */
  let cleanups: (() => Promise<unknown>)[];

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    jobs = baton.jobs;
    cleanups = [];
  });

  afterEach(async () => {
    for (const cleanup of cleanups.reverse()) await cleanup();
    await baton.stop();
    await database.drop();
  });

  /** A worker that is stopped after the test, without patience for handlers that the test has left. */
  const start = (
    options: Partial<WorkerSettings> & { readonly baseUrl?: string; readonly transport?: Transport },
    handler?: RunHandler,
    ignoresAbort?: boolean,
  ): TestWorker => {
    const { baseUrl = baton.grpcUrl, transport, ...settings } = options;
    const started = new TestWorker(
      transport === undefined ? { baseUrl } : { transport },
      { stopGraceMs: 0, abortGraceMs: 100, ...settings },
      handler,
      ignoresAbort,
    );
    cleanups.push(() => started.stop());
    return started;
  };

  const create = async (fields: { priority?: number; maxAttempts?: number } = {}): Promise<string> =>
    (await jobs.createRun(fields)).run?.id ?? '';

  const get = async (id: string): Promise<Run> => {
    const { run } = await jobs.getRun({ id });
    assert.ok(run);
    return run;
  };

  const reaches = (id: string, status: string, timeoutMs = 15_000): Promise<void> =>
    waitFor(async () => (await get(id)).status === status, `the run to be ${status}`, timeoutMs);

  const waits = (): Promise<void> =>
    waitFor(() => baton.server.service.claims.waiting > 0, 'the worker to wait for runs');

  /** The story without claims that the server took back because it could not deliver them: they cost nothing. */
  const kept = async (id: string): Promise<string[]> =>
    (await story(jobs, id)).filter(
      (change, index, all) => change !== 'RELEASED new' && all[index + 1] !== 'RELEASED new',
    );

  const loses = (proxy: FaultProxy): Promise<void> =>
    waitFor(() => proxy.lostBytes > 0, 'the reply to be lost');

  const proxyOf = async (url: string): Promise<FaultProxy> => {
    const { hostname: host, port } = new URL(url);
    const proxy = await FaultProxy.start({ host, port: Number(port) });
    cleanups.push(() => proxy.close());
    return proxy;
  };

  void test('two workers take a run through both stages, over gRPC and over Connect', async () => {
    const transport = createConnectTransport({ baseUrl: baton.httpUrl, httpVersion: '1.1' });
    start({ stage: 'initialize', workerId: 'first' }, (run) => ({ from: run.input?.['n'], by: 'first' }));
    start({ transport, stage: 'run' }, (run, context) => {
      context.progress(0.5, 'half');
      return { before: run.output ?? null, date: new Date(0), nothing: undefined };
    });
    const { run } = await jobs.createRun({ input: { n: 7 } });
    await reaches(run!.id, 'success');
    const ended = await get(run!.id);
    assert.deepEqual(ended.output, { before: { from: 7, by: 'first' }, date: '1970-01-01T00:00:00.000Z' });
    assert.equal(ended.statusMessage, 'half', 'what was not sent before goes with the report');
    assert.deepEqual(await story(jobs, run!.id), [...DONE, 'CLAIMED running', 'SUCCEEDED success']);
  });

  void test('no more runs are claimed than can be started, whatever waits', async () => {
    const ids = await Promise.all(Array.from({ length: 9 }, () => create()));
    const { works } = start({ concurrency: 3 });
    const active = async (): Promise<number> => {
      const rows = await database.pool.query(`select id from baton.runs where state = 'ACTIVE'`);
      return rows.length;
    };
    for (let done = 0; done < ids.length; done += 1) {
      await waitFor(() => works.length >= Math.min(done + 3, 9), 'the free slot to be taken');
      assert.equal(await active(), Math.min(3, 9 - done));
      works[done]?.return();
      await reaches(works[done]!.run.id, 'initialized');
    }
    assert.equal(new Set(works.map(({ run }) => run.id)).size, 9);
  });

  void test('what a handler throws becomes the error of the run', async () => {
    const { works } = start({ concurrency: 5 });
    const [plain, final, later, back, large] = [
      await create(),
      await create(),
      await create(),
      await create(),
      await create(),
    ];
    await waitFor(() => works.length === 5, 'all to be at work');
    const workOn = (id: string) => works.find(({ run }) => run.id === id)!;
    workOn(plain).throw(new TypeError(`no${'\0'.repeat(2)}${'x'.repeat(5000)}`));
    workOn(final).throw(new FinalFailure('red', { code: 'TEST_FAILED', output: { log: 'x' } }));
    workOn(later).throw(new RetryLater('busy', 3_600_000, { code: 'BUSY' }));
    workOn(back).throw(new HandBack());
    workOn(large).return({ text: 'x'.repeat(1024 * 1024) });

    await reaches(plain, 'new');
    const failed = await get(plain);
    assert.deepEqual([failed.error?.code, failed.attempt], ['TypeError', 1]);
    assert.equal(failed.error?.message.length, 4096);
    await reaches(final, 'error');
    const { error, output } = await get(final);
    assert.deepEqual([error?.code, error?.message, output], ['TEST_FAILED', 'red', { log: 'x' }]);
    await reaches(later, 'new');
    const waiting = await get(later);
    assert.equal(waiting.error?.code, 'BUSY');
    assert.ok(Number(waiting.scheduleTime?.seconds) - Date.now() / 1000 > 3000);
    await reaches(large, 'error');
    assert.match((await get(large)).error?.message ?? '', /the output has \d+ bytes/);
    await waitFor(async () => (await story(jobs, back)).length >= 3, 'the run to be handed back');
    assert.deepEqual((await story(jobs, back)).slice(0, 3), [...CLAIMED, 'RELEASED new']);
    await waitFor(() => works.some(({ run }) => run.id === back && run.version > 3n), 'the next claim of it');
    assert.equal(works.findLast(({ run }) => run.id === back)?.run.attempt, 1, 'no attempt was lost');
  });

  void test('a report that the server refuses ends the run with its words, and the worker goes on', async () => {
    const refused = await create();
    const { works, errors } = start({});
    await waitFor(() => works.length === 1, 'the first run');
    works[0]!.return({ text: 'a\0b' });
    await reaches(refused, 'error');
    const { error } = await get(refused);
    assert.equal(error?.code, 'REPORT_REFUSED');
    assert.match(error.message, /output/);
    assert.equal(errors[0]?.context.during, 'report');
    const reserved = await create();
    await waitFor(() => works.length === 2, 'the second run');
    works[1]!.throw(new FinalFailure('x', { code: 'LEASE_EXPIRED' }));
    await reaches(reserved, 'error');
    assert.equal((await get(reserved)).error?.code, 'REPORT_REFUSED');
  });

  void test('leases are renewed in one call for all, over several of their lengths, with the news', async () => {
    const counter = new CallCounter();
    const transport = createGrpcTransport({ baseUrl: baton.grpcUrl, interceptors: [counter.interceptor] });
    const ids = await Promise.all(Array.from({ length: 4 }, () => create({ maxAttempts: 1 })));
    const leaseDurationMs = 3000;
    const own = start({ transport, concurrency: 4, leaseDurationMs });
    await waitFor(() => own.works.length === 4, 'all to be at work');
    const begun = performance.now();
    for (const { context } of own.works) {
      for (let part = 1; part <= 10; part += 1) context.progress(part / 20, `part ${part}`);
    }
    await waitFor(async () => (await get(ids[0]!)).progress === 0.5, 'the progress to be sent');
    assert.equal((await get(ids[0]!)).statusMessage, 'part 10');
    await waitFor(() => performance.now() - begun > 3.2 * leaseDurationMs, 'three leases to pass');
    const renewals = counter.count('ExtendLeases');
    const leases = (performance.now() - begun) / leaseDurationMs;
    // Three in the time of a lease, and fewer where the machine is slow: that none has ended is seen below.
    assert.ok(renewals >= leases - 1 && renewals <= 4.6 * leases, `${renewals} renewals in ${leases} leases`);
    for (const work of own.works) work.return();
    for (const id of ids) {
      await reaches(id, 'initialized');
      // The progress is one event; a renewal alone is none.
      assert.deepEqual(await story(jobs, id), [
        ...CLAIMED,
        'UPDATED initializing',
        'STAGE_COMPLETED initialized',
      ]);
    }
    assert.deepEqual(own.errors, []);
  });

  void test('a cancel reaches the handler, and the run ends as canceled', async () => {
    await jobs.batchCreateRuns({ requests: [{}, {}] });
    const own = start({ leaseDurationMs: 6000 });
    const ignoring = start({ leaseDurationMs: 6000 }, undefined, true);
    await waitFor(() => own.works.length === 1 && ignoring.works.length === 1, 'one run each');
    for (const { run } of [own.works[0]!, ignoring.works[0]!]) await jobs.cancelRun({ runId: run.id });
    assert.equal(whyOf(await own.aborted(0)), 'canceled');
    await reaches(own.works[0]!.run.id, 'canceled');
    // It goes on although it was told, and its output counts no more.
    assert.equal(whyOf(await ignoring.aborted(0)), 'canceled');
    ignoring.works[0]!.return({ late: true });
    await reaches(ignoring.works[0]!.run.id, 'canceled');
    assert.equal((await get(ignoring.works[0]!.run.id)).output, undefined);
  });

  void test('a lease that was taken away aborts the handler, and its late end changes nothing', async () => {
    const id = await create();
    const own = start({ leaseDurationMs: 6000 }, undefined, true);
    const work = await own.work(0);
    // Another worker has it: by SQL, which is as quick as a thief can be.
    await database.pool.query(`update baton.runs set status = 'new' where id = $1`, [id]);
    const { claims } = await jobs.claimNext({ stage: 'initialize', workerId: 'thief' });
    assert.equal(claims[0]?.run?.id, id);
    assert.equal(whyOf(await own.aborted(0)), 'lease_lost');
    const before = await get(id);
    work.return({ late: true });
    // The slot is free again only when the handler has ended, and nothing is reported.
    const next = await create();
    assert.equal((await own.work(1)).run.id, next);
    const { version, workerId, output } = await get(id);
    assert.deepEqual([version, workerId, output], [before.version, 'thief', undefined]);
  });

  void test('a checkpoint is durable when its promise resolves, and handed to the next attempt', async () => {
    const id = await create();
    const own = start({});
    const work = await own.work(0);
    work.context.progress(0.9, 'now', { atOnce: true });
    await waitFor(async () => (await get(id)).progress === 0.9, 'the progress, long before a renewal', 1000);
    await work.context.checkpoint({ row: 41 });
    assert.deepEqual((await get(id)).checkpoint, { row: 41 });
    await assert.rejects(work.context.checkpoint([1]), /must be an object/);
    await assert.rejects(work.context.checkpoint({ text: 'x'.repeat(70_000) }), /65536 are allowed/);
    await assert.rejects(work.context.checkpoint({ text: 'a\0b' }), /checkpoint/, 'refused by the server');
    await Promise.all([1, 2, 3].map((row) => work.context.checkpoint({ row })));
    work.throw(new RetryLater('again', 0));
    const second = await own.work(1);
    assert.deepEqual([second.run.attempt, second.run.checkpoint], [2, { row: 3 }]);
    second.return();
    await reaches(id, 'initialized');
    await assert.rejects(second.context.checkpoint({ row: 4 }), RunAborted);
  });

  void test('a busy worker makes one round trip for each run', async () => {
    const counter = new CallCounter();
    const transport = createGrpcTransport({ baseUrl: baton.grpcUrl, interceptors: [counter.interceptor] });
    const ids = await Promise.all(Array.from({ length: 20 }, () => create()));
    const busy = start({ transport }, () => ({ ok: true }));
    for (const id of ids) await reaches(id, 'initialized');
    await waitFor(() => busy.worker.active === 0, 'the last report to be answered, whatever it claims', 1000);
    await waits();
    assert.deepEqual(Object.fromEntries(counter.calls), { GetPipeline: 1, ClaimNext: 2, UpdateStatus: 20 });
  });

  void test('1000 runs with 50 at once are all done exactly once', async () => {
    const counter = new CallCounter();
    const transport = createGrpcTransport({ baseUrl: baton.grpcUrl, interceptors: [counter.interceptor] });
    const { runs } = await jobs.batchCreateRuns({ requests: Array.from({ length: 1000 }, () => ({})) });
    const handled = new Map<string, number>();
    let atWork = 0;
    let most = 0;
    start({ transport, concurrency: 50 }, async ({ id }) => {
      handled.set(id, (handled.get(id) ?? 0) + 1);
      most = Math.max(most, ++atWork);
      await new Promise((resolve) => setImmediate(resolve));
      atWork -= 1;
    });
    const isDone = async (): Promise<boolean> => {
      const [row] = await database.pool.query<{ n: number }>(
        `select count(*)::int as n from baton.runs where status = 'initialized'`,
      );
      return row?.n === 1000;
    };
    await waitFor(isDone, 'all runs to be done', 60_000);
    assert.deepEqual([handled.size, ...new Set(handled.values())], [1000, 1]);
    assert.ok(runs.every(({ id }) => handled.has(id)));
    assert.ok(most <= 50, `${most} at once`);
    assert.equal(counter.count('UpdateStatus'), 1000);
    assert.ok(counter.count('ClaimNext') < 60, `${counter.count('ClaimNext')} claims`);
    const events = await database.pool.query(`select 1 from baton.run_events`);
    assert.equal(events.length, 3000, 'created, claimed and done, each once');
  });

  void test('a stop lets handlers finish, and claims nothing meanwhile', async () => {
    const own = start({ concurrency: 2, stopGraceMs: 10_000 });
    const ids = [await create(), await create()];
    await waitFor(() => own.works.length === 2, 'both to be at work');
    const later = await create();
    const stopped = own.stop();
    for (const work of own.works) work.return({ done: true });
    await stopped;
    await within(own.worker.closed, 'closed');
    for (const id of ids) assert.deepEqual(await story(jobs, id), DONE);
    assert.deepEqual(await story(jobs, later), ['CREATED new'], 'nothing is claimed while it stops');
    assert.deepEqual([own.works.length, own.worker.active], [2, 0]);
  });

  void test('a stop hands back what does not finish, also where the handler does not listen', async () => {
    const listening = start({ stopGraceMs: 50 });
    const first = await create({ maxAttempts: 1 });
    const work = await listening.work(0);
    work.context.progress(0.75, 'nearly');
    await listening.stop();
    assert.equal(whyOf(work.aborted), 'stopping');
    assert.deepEqual(await story(jobs, first), [...CLAIMED, 'RELEASED new']);
    const left = await get(first);
    assert.deepEqual([left.attempt, left.progress], [0, 0.75]);

    const deaf = start({ stopGraceMs: 50, abortGraceMs: 50 }, undefined, true);
    await deaf.work(0);
    await deaf.stop();
    assert.equal((await get(first)).attempt, 0);
    assert.equal((await get(first)).state, RunState.PENDING);
    deaf.works[0]!.return({ late: true });
    // Two claims that were handed back, with one attempt allowed: the run is as good as new.
    const third = start({});
    (await third.work(0)).return();
    await reaches(first, 'initialized');
  });

  void test('a process ends by itself when its worker has stopped: no timer and no socket is left', async () => {
    const { run } = await jobs.createRun({ repository: 'shop' });
    const refused = await create();
    const program = new Program({
      program: process.execPath,
      args: [EXAMPLE],
      env: { BATON_URL: baton.grpcUrl },
    });
    cleanups.push(() => program.end('SIGKILL'));
    await reaches(refused, 'error');
    await reaches(run!.id, 'initialized');
    assert.deepEqual((await get(run!.id)).output, { built: 'shop' });
    await waits();
    const last = (await jobs.createRun({ repository: 'last' })).run!.id;
    await reaches(last, 'initializing');
    // A claim of the same stage is answered after the one before it, which the program then has.
    assert.deepEqual((await jobs.claimNext({ stage: 'initialize' })).claims, []);
    assert.equal(await program.end('SIGTERM'), 0, program.output);
    assert.equal((await get(last)).status, 'initialized', 'what was at work has ended before');
    assert.equal(program.output, '');
  });

  void test('a reply of ClaimNext that is lost orphans no run', async () => {
    const proxy = await proxyOf(baton.grpcUrl);
    const own = start({ baseUrl: `http://127.0.0.1:${proxy.port}`, leaseDurationMs: 6000 });
    await waits();
    proxy.mode = 'drop-to-client';
    const id = await create();
    await reaches(id, 'initializing');
    await loses(proxy);
    proxy.mode = 'pass';
    (await own.work(0)).return();
    await reaches(id, 'initialized');
    assert.deepEqual(await kept(id), DONE);
    assert.equal(own.works.length, 1);
  });

  void test('a stop hands back what a lost reply of ClaimNext has claimed', async () => {
    const proxy = await proxyOf(baton.grpcUrl);
    const own = start({ baseUrl: `http://127.0.0.1:${proxy.port}` });
    await waits();
    proxy.mode = 'drop-to-client';
    const id = await create();
    await reaches(id, 'initializing');
    await loses(proxy);
    proxy.mode = 'pass';
    proxy.reset();
    await own.stop();
    const told = await story(jobs, id);
    assert.deepEqual(told.slice(-2), ['CLAIMED initializing', 'RELEASED new']);
    assert.deepEqual([(await get(id)).attempt, own.works.length], [0, 0]);
  });

  void test('a reply of UpdateStatus that is lost is asked for again, with the claim in it', async () => {
    const proxy = await proxyOf(baton.grpcUrl);
    const own = start({ baseUrl: `http://127.0.0.1:${proxy.port}`, leaseDurationMs: 6000 });
    const first = await create();
    const work = await own.work(0);
    const second = await create();
    proxy.mode = 'drop-to-client';
    work.return({ n: 1 });
    await reaches(first, 'initialized');
    await reaches(second, 'initializing');
    await loses(proxy);
    proxy.mode = 'pass';
    (await own.work(1)).return({ n: 2 });
    await reaches(second, 'initialized');
    assert.deepEqual([await kept(first), await kept(second)], [DONE, DONE]);
    assert.deepEqual(
      own.works.map(({ run }) => run.id),
      [first, second],
    );
  });

  void test('a reply of ExtendLeases that is lost costs no lease', async () => {
    const proxy = await proxyOf(baton.grpcUrl);
    const id = await create({ maxAttempts: 1 });
    const own = start({ baseUrl: `http://127.0.0.1:${proxy.port}`, leaseDurationMs: 6000 });
    const work = await own.work(0);
    const expiry = async (): Promise<bigint> => (await get(id)).leaseExpireTime?.seconds ?? 0n;
    const claimed = await expiry();
    proxy.mode = 'drop-to-client';
    await waitFor(async () => (await expiry()) > claimed, 'the lease to be extended');
    const extended = await expiry();
    await loses(proxy);
    proxy.mode = 'pass';
    await waitFor(async () => (await expiry()) > extended, 'the lease to be extended again');
    assert.equal(work.aborted, undefined);
    work.return();
    await reaches(id, 'initialized');
    assert.deepEqual(await story(jobs, id), DONE);
  });

  void test('a lease ends by the clock of the worker before another can claim', async () => {
    const proxy = await proxyOf(baton.grpcUrl);
    const id = await create();
    const own = start({ baseUrl: `http://127.0.0.1:${proxy.port}`, leaseDurationMs: 8000 });
    const work = await own.work(0);
    let toldAtMs = Infinity;
    work.context.signal.addEventListener('abort', () => (toldAtMs = Date.now()));
    proxy.mode = 'half-open';
    await loses(proxy);
    // Nothing that was sent before is on its way any more. The database has the same clock.
    const end = (await get(id)).leaseExpireTime;
    assert.ok(end);
    assert.equal(whyOf(await own.aborted(0)), 'lease_expired');
    const lateMs = toldAtMs - timestampMs(end);
    assert.ok(lateMs < 0, `the lease was over ${lateMs} ms before the handler was told`);
    // Minutes of this are survived in the same way as seconds.
    await waitFor(
      async () => (await story(jobs, id)).includes('LEASE_EXPIRED new'),
      'the end of the lease',
      20_000,
    );
    proxy.mode = 'pass';
    const again = await own.work(1, 30_000);
    assert.equal(again.run.attempt, 2);
    again.return();
    await reaches(id, 'initialized');
  });

  void test('a run outlives a server that is killed and started again', async () => {
    const [grpcPort = 0, httpPort = 0] = await freePorts(2);
    const args = ['serve', '--database-url', database.url, '--grpc-listen', `127.0.0.1:${grpcPort}`];
    args.push('--http-listen', `127.0.0.1:${httpPort}`, '--log-level', 'silent');
    let server = await new ServerProcess(args).ready();
    cleanups.push(() => server.end());
    const own = start({ baseUrl: `http://127.0.0.1:${grpcPort}`, concurrency: 2, leaseDurationMs: 20_000 });
    const [first, second] = [await create({ maxAttempts: 1 }), await create({ maxAttempts: 1 })];
    await waitFor(() => own.works.length === 2, 'both to be at work');
    await server.end('SIGKILL');
    // One ends while there is no server, the other one goes on.
    own.works[0]!.return({ n: 1 });
    await waitFor(() => own.errors.some(({ context }) => context.during === 'report'), 'a failed report');
    server = await new ServerProcess(args).ready();
    const third = await create();
    const next = await own.work(2, 20_000);
    assert.equal(next.run.id, third);
    own.works[1]!.return({ n: 2 });
    next.return();
    for (const id of [first, second, third]) {
      await reaches(id, 'initialized', 20_000);
      assert.deepEqual(await kept(id), DONE);
    }
    assert.equal(own.works.length, 3);
  });

  void test('the words of the stage are learned anew when the pipeline has got others', async () => {
    const stage = { name: 's', processingStatus: 'at', doneStatus: 'done' };
    await baton.pipelines.putPipeline({ pipeline: { name: 'p', stages: [stage] } });
    const own = start({ pipeline: 'p', stage: 's' });
    const id = (await jobs.createRun({ pipeline: 'p' })).run?.id ?? '';
    const work = await own.work(0);
    await baton.pipelines.putPipeline({
      pipeline: { name: 'p', stages: [{ ...stage, doneStatus: 'ready' }] },
    });
    work.return();
    await reaches(id, 'ready');
  });

  void test('an attempt that uses up its time is stopped before, and counts', async () => {
    const stage = { name: 's', processingStatus: 'at', doneStatus: 'done', timeout: { seconds: 2n } };
    await baton.pipelines.putPipeline({ pipeline: { name: 'p', stages: [stage] } });
    const id = (await jobs.createRun({ pipeline: 'p', maxAttempts: 1 })).run?.id ?? '';
    const own = start({ pipeline: 'p', stage: 's', leaseDurationMs: 60_000 });
    assert.equal(whyOf(await own.aborted(0)), 'lease_expired');
    assert.equal((await get(id)).state, RunState.ACTIVE, 'stopped before');
    await reaches(id, 'error');
    assert.equal((await get(id)).error?.code, 'ATTEMPT_TIMED_OUT');
  });

  void test('a server that is overloaded is left alone for as long as it asks, and a logger may fail', async () => {
    const asked: number[] = [];
    const overload: Interceptor = (next) => (request) => {
      if (request.method.name !== 'ClaimNext') return next(request);
      asked.push(performance.now());
      if (asked.length > 1) return next(request);
      const info = createMessage(ErrorInfoSchema, { reason: 'OVERLOADED', domain: 'baton.v1' });
      const retry = createMessage(RetryInfoSchema, { retryDelay: durationFromMs(1500) });
      throw new ConnectError('busy', Code.ResourceExhausted, undefined, [
        { desc: ErrorInfoSchema, value: info },
        { desc: RetryInfoSchema, value: retry },
      ]);
    };
    const id = await create();
    const onError = (): never => {
      throw new Error('the logger fails');
    };
    const transport = createGrpcTransport({ baseUrl: baton.grpcUrl, interceptors: [overload] });
    const own = start({ transport, onError });
    (await own.work(0)).return();
    await reaches(id, 'initialized');
    // A timer goes by the whole milliseconds of the turn in which it was set.
    assert.ok(asked[1]! - asked[0]! >= 1499, `asked again after ${asked[1]! - asked[0]!} ms`);
  });

  void test('a worker waits for its pipeline, its server and its database', async () => {
    const [port = 0] = await freePorts(1);
    const early = start({ baseUrl: `http://127.0.0.1:${port}` });
    const own = start({ pipeline: 'later', stage: 's' });
    await waitFor(() => early.errors.length > 0 && own.errors.length > 0, 'both to say that they wait');
    assert.deepEqual(
      [early, own].map(({ errors }) => errors[0]?.context.during),
      ['definition', 'definition'],
    );
    await baton.pipelines.putPipeline({
      pipeline: { name: 'later', stages: [{ name: 's', processingStatus: 'at', doneStatus: 'done' }] },
    });
    const id = (await jobs.createRun({ pipeline: 'later' })).run?.id ?? '';
    (await own.work(0, 20_000)).return();
    await reaches(id, 'done');
    await early.stop();
    assert.throws(() => start({ concurrency: 0 }), RangeError);
    assert.throws(() => start({ leaseDurationMs: 10 }), RangeError);
  });
});
