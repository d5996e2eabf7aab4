/** What becomes of open runs, of switches and of calls when the definition of a pipeline changes under them. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import type { StageSchema } from '../../gen/baton/v1/pipeline_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import { STAGE_DEFAULTS } from '../../src/run/pipeline.js';
import { putPipeline } from '../../src/store/sql/put_pipeline.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { waitingForLock } from '../support/log_runs.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

type StageInit = MessageInitShape<typeof StageSchema>;

const SINGLE: StageInit = { name: 's', processingStatus: 'at', doneStatus: 'done' };

describeOnEveryPostgres('a definition that changes', (open) => {
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

  const put = (...stages: StageInit[]) => baton.pipelines.putPipeline({ pipeline: { name: 'p', stages } });

  const create = async (fields: { maxAttempts?: number } = {}): Promise<string> =>
    (await baton.jobs.createRun({ pipeline: 'p', ...fields })).run?.id ?? '';

  const claim = async (stage = 's'): Promise<Claim> => {
    const { claims } = await baton.jobs.claimNext({ pipeline: 'p', stage, wait: { seconds: 10n } });
    assert.ok(claims[0], 'nothing to claim');
    return claims[0];
  };

  const tokenOf = (held: Claim) => ({ runId: held.run?.id ?? '', leaseToken: held.leaseToken });

  const fail = async (held: Claim): Promise<Run | undefined> => {
    const error = { code: 'X', retryable: true, retryDelay: {} };
    return (await baton.jobs.updateStatus({ ...tokenOf(held), status: 'error', error })).run;
  };

  const untilLockIsWaitedFor = (part: string, settled: () => boolean): Promise<void> =>
    waitFor(
      async () => settled() || (await waitingForLock(database.pool, part)).length > 0,
      'a statement to wait for a lock, or to go on without',
    );

  void test('gives more attempts, or fewer, to runs that are in the stage already', async () => {
    await put({ ...SINGLE, maxAttempts: 1 });
    await create();
    await create({ maxAttempts: 1 });
    const [first, own] = [await claim(), await claim()];
    await put({ ...SINGLE, maxAttempts: 3, backoff: { initial: {} } });
    assert.deepEqual(
      [(await fail(own))?.state, (await fail(first))?.state],
      [RunState.FAILED, RunState.PENDING],
    );
    const second = await claim();
    assert.deepEqual([second.run?.attempt, second.run?.maxAttempts], [2, 3]);
    await put({ ...SINGLE, maxAttempts: 2 });
    const failed = await fail(second);
    assert.deepEqual([failed?.state, failed?.maxAttempts], [RunState.FAILED, 2]);
    const waiting = await create();
    await put({ ...SINGLE, maxAttempts: 4 });
    const { run } = await claim();
    assert.deepEqual([run?.id, run?.maxAttempts], [waiting, 4]);
  });

  void test('gives more attempts to a run whose lease ends', async () => {
    await put({ ...SINGLE, maxAttempts: 1 });
    const id = await create();
    await claim();
    await put({ ...SINGLE, maxAttempts: 2, backoff: { initial: {} } });
    await database.pool.query('update baton.runs set lease_expire_time = clock_timestamp() where id = $1', [
      id,
    ]);
    const { run } = await claim();
    assert.deepEqual([run?.id, run?.attempt, run?.maxAttempts], [id, 2, 2]);
  });

  void test('is what every move goes by, also one that began before it was committed', async () => {
    await put(
      { ...SINGLE, doneStatus: 'between' },
      { name: 't', processingStatus: 'in-t', doneStatus: 'done' },
    );
    const id = await create();
    const held = await claim();
    let commit: (() => void) | undefined;
    const mayCommit = new Promise<void>((resolve) => (commit = resolve));
    let isPut = false;
    const redefined = database.pool.transaction(async (tx) => {
      await putPipeline(tx, {
        ...{
          name: 'p',
          description: '',
          initialStatus: 'new',
          errorStatus: 'error',
          canceledStatus: 'canceled',
        },
        schedules: [],
        stages: [
          { ...STAGE_DEFAULTS, name: 's', processingStatus: 'at', doneStatus: 'elsewhere' },
          { ...STAGE_DEFAULTS, name: 't', processingStatus: 'in-t', doneStatus: 'done' },
        ],
      });
      isPut = true;
      await mayCommit;
    });
    await waitFor(() => isPut, 'the new definition to be written');
    let settled = false;
    const report = baton.jobs.updateStatus({ ...tokenOf(held), status: 'between' });
    report.finally(() => (settled = true)).catch(() => undefined);
    await untilLockIsWaitedFor('baton.append', () => settled);
    commit?.();
    await redefined;
    assert.equal((await failure(within(report, 'the report'))).reason, 'DATABASE_UNAVAILABLE');
    assert.equal((await baton.jobs.getRun({ id })).run?.status, 'at');
    const moved = await baton.jobs.updateStatus({ ...tokenOf(held), status: 'elsewhere' });
    assert.deepEqual([moved.run?.status, moved.run?.stage], ['elsewhere', 't']);
  });

  void test('is refused where it would take a run from its worker, or make one ACTIVE that nobody has', async () => {
    await put(SINGLE);
    const waiting = await create();
    const swapped = { name: 's', processingStatus: 'new', doneStatus: 'done' };
    const turned = { pipeline: { name: 'p', initialStatus: 'at', stages: [swapped] } };
    const refused = await failure(baton.pipelines.putPipeline(turned));
    assert.deepEqual([refused.reason, refused.metadata['statuses']], ['PIPELINE_IN_USE', 'new']);
    const held = await claim();
    const again = await failure(baton.pipelines.putPipeline(turned));
    assert.deepEqual([again.reason, again.metadata['statuses']], ['PIPELINE_IN_USE', 'at']);
    const done = await baton.jobs.updateStatus({ ...tokenOf(held), status: 'done' });
    assert.deepEqual([done.run?.id, done.run?.state], [waiting, RunState.SUCCEEDED]);
    await baton.pipelines.putPipeline(turned);
  });

  void test('that is gone keeps its runs from being retried, and a report from being repeated in vain', async () => {
    await put(SINGLE);
    const id = await create();
    const report = { ...tokenOf(await claim()), status: 'done', output: { n: 1 } };
    await baton.jobs.updateStatus(report);
    await baton.pipelines.deletePipeline({ name: 'p' });
    assert.equal((await failure(baton.jobs.retryRun({ runId: id }))).reason, 'PIPELINE_NOT_FOUND');
    const repeated = await baton.jobs.updateStatus(report);
    assert.deepEqual([repeated.run?.id, repeated.run?.status], [id, 'done']);
    const other = await failure(baton.jobs.updateStatus({ ...report, status: 'error', output: undefined }));
    assert.equal(other.reason, 'LEASE_LOST');
  });

  void test('that is gone while a run is created is told as such', async () => {
    await put(SINGLE);
    const remover = await database.connect();
    await remover.query('begin');
    await remover.query(`delete from baton.pipelines where name = 'p'`);
    let settled = false;
    const created = baton.jobs.createRun({ pipeline: 'p' }).finally(() => (settled = true));
    created.catch(() => undefined);
    await untilLockIsWaitedFor('baton.append', () => settled);
    await remover.query('commit');
    assert.equal((await failure(within(created, 'the creation'))).reason, 'DATABASE_UNAVAILABLE');
    assert.equal((await failure(baton.jobs.createRun({ pipeline: 'p' }))).reason, 'PIPELINE_NOT_FOUND');
  });

  void test('neither loses a pause of a stage that comes at the same time, nor refuses it', async () => {
    const first = (await put(SINGLE)).pipeline;
    const definer = await database.connect();
    // What PutPipeline has done when it comes to its commit.
    await definer.query('begin');
    await definer.query(`select from baton.pipelines where name = 'p' for update`);
    await definer.query(
      `create temporary table kept on commit drop as select * from baton.stages where pipeline = 'p'`,
    );
    let settled = false;
    const paused = baton.pipelines.pausePipeline({ name: 'p', stage: 's' }).finally(() => (settled = true));
    paused.catch(() => undefined);
    await untilLockIsWaitedFor('', () => settled);
    await definer.query(`delete from baton.stages where pipeline = 'p'`);
    await definer.query('insert into baton.stages select * from kept');
    await definer.query('commit');
    const after = (await within(paused, 'the pause')).pipeline;
    assert.equal(after?.stages[0]?.paused, true);
    assert.deepEqual((await baton.pipelines.getPipeline({ name: 'p' })).pipeline, after, 'it stays so');
    assert.notDeepEqual(after.updateTime, first?.updateTime, 'it shows when it was paused');
    await create();
    assert.equal((await baton.jobs.claimNext({ pipeline: 'p', stage: 's' })).claims.length, 0);
  });

  void test('that is left open keeps only its own leases from ending', async () => {
    await put(SINGLE);
    await create();
    const own = await claim();
    const other = (await baton.jobs.createRun({})).run?.id ?? '';
    await baton.jobs.claimNext({ stage: 'initialize' });
    const definer = await database.connect();
    await definer.query('begin');
    await definer.query(`select from baton.pipelines where name = 'p' for update`);
    await database.pool.query('update baton.runs set lease_expire_time = clock_timestamp()');
    const stateOf = async (id: string) => (await baton.jobs.getRun({ id })).run?.state;
    await waitFor(async () => (await stateOf(other)) === RunState.PENDING, 'the other lease to end', 2500);
    assert.equal(await stateOf(own.run?.id ?? ''), RunState.ACTIVE);
    await definer.query('rollback');
    await waitFor(
      async () => (await stateOf(own.run?.id ?? '')) === RunState.PENDING,
      'the lease to end once the definition is there',
      2500,
    );
  });
});
