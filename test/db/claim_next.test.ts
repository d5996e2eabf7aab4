/**
 * UpdateStatus with `claim_next`, many at once: one transaction for each stage, and for each worker the same as if it
 * were alone. What one statement cannot do is done all the same.
 */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import type { Claim, UpdateStatusResponse } from '../../gen/baton/v1/job_service_pb.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer, type TestServer } from '../support/server.js';

interface Next {
  readonly pipeline?: string;
  readonly stage: string;
  readonly workerId?: string;
  readonly maxRuns?: number;
  readonly requestId?: string;
}

describeOnEveryPostgres('claim_next', (open) => {
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

  const create = async (runs: number, pipeline = ''): Promise<string[]> => {
    const requests = Array.from({ length: runs }, () => ({ pipeline }));
    return (await baton.jobs.batchCreateRuns({ requests })).runs.map(({ id }) => id);
  };

  const claim = async (maxRuns: number, pipeline = '', stage = 'initialize'): Promise<Claim[]> => {
    const { claims } = await baton.jobs.claimNext({ pipeline, stage, workerId: 'w', maxRuns });
    assert.equal(claims.length, maxRuns);
    return claims;
  };

  const tokenOf = (held: Claim | undefined) => ({
    runId: held?.run?.id ?? '',
    leaseToken: held?.leaseToken ?? '',
  });

  const finish = (held: Claim | undefined, status: string, next: Next): Promise<UpdateStatusResponse> =>
    baton.jobs.updateStatus({ ...tokenOf(held), status, claimNext: { workerId: 'w', ...next } });

  const idsOf = (claims: readonly Claim[]): (string | undefined)[] => claims.map(({ run }) => run?.id);

  /** The transactions that have appended the events of these types. */
  const transactions = async (...types: string[]): Promise<string[]> => {
    const rows = await database.pool.query<{ xmin: string }>(
      'select distinct e.xmin::text from baton.run_events e where e.type::text = any ($1) order by 1',
      [types],
    );
    return rows.map(({ xmin }) => xmin);
  };

  void test('reports and claims are one transaction, and one for many workers', async () => {
    await create(20);
    const held = await claim(10);
    const [claiming] = await transactions('CLAIMED');
    const answers = await Promise.all(
      held.map((each) => finish(each, 'initialized', { stage: 'initialize' })),
    );
    assert.equal(new Set(answers.flatMap(({ claims }) => idsOf(claims))).size, 10);
    const completing = await transactions('STAGE_COMPLETED');
    const both = await transactions('STAGE_COMPLETED', 'CLAIMED');
    assert.deepEqual(new Set(both), new Set([...completing, claiming]), 'no claim by itself');
    // Those that came in one turn of the event loop; the first may have gone ahead.
    assert.ok(completing.length <= 3, `${completing.length} transactions for 10 workers`);
  });

  void test('workers of several stages that report at once each get runs of their own stage', async () => {
    const [first] = await create(6);
    const held = await claim(4);
    for (const each of held.slice(0, 2))
      await finish(each, 'initialized', { stage: 'nowhere' }).catch(() => 0);
    for (const each of held.slice(0, 2)) {
      await baton.jobs.updateStatus({ ...tokenOf(each), status: 'initialized' });
    }
    const [running] = await claim(1, '', 'run');
    assert.equal(running?.run?.id, first);
    const answers = await Promise.all([
      finish(held[2], 'initialized', { stage: 'initialize' }),
      finish(running, 'success', { stage: 'run' }),
      finish(held[3], 'initialized', { stage: 'initialize' }),
      baton.jobs.updateStatus({ ...tokenOf(held[0]), status: 'initialized' }),
    ]);
    assert.deepEqual(
      answers.map(({ claims }) => claims.map(({ run }) => run?.status)),
      [['initializing'], ['running'], ['initializing'], []],
    );
  });

  void test('a worker goes on with the run that it has just moved into the stage it claims from', async () => {
    const [id] = await create(1);
    const [held] = await claim(1);
    const answer = await finish(held, 'initialized', { stage: 'run' });
    assert.deepEqual(idsOf(answer.claims), [id]);
    const again = await finish(answer.claims[0], 'initialized', { stage: 'run' });
    assert.deepEqual(idsOf(again.claims), [id], 'also one that it handed back');
    assert.equal((await transactions('STAGE_COMPLETED', 'CLAIMED')).length, 3, 'three steps');
  });

  void test('a request_id that holds claims gives these, and no others', async () => {
    await create(4);
    const [held] = await claim(1);
    const next = { stage: 'initialize', requestId: 'once' };
    const { claims } = await baton.jobs.claimNext({ ...next, workerId: 'w' });
    const answer = await finish(held, 'initialized', next);
    assert.equal(answer.run?.status, 'initialized');
    assert.deepEqual(idsOf(answer.claims), idsOf(claims));
    const { runs } = await baton.jobs.listRuns({ filter: { statuses: ['new'] } });
    assert.equal(runs.length, 2, 'nothing else was claimed');
  });

  void test('limits hold, also those that a stage has got or lost since', async () => {
    const stage = { name: 's', processingStatus: 'at', doneStatus: 'done', maxActive: 2 };
    const put = (maxActive: number) =>
      baton.pipelines.putPipeline({
        pipeline: { name: 'tight', initialStatus: 'waiting', stages: [{ ...stage, maxActive }] },
      });
    const next = { pipeline: 'tight', stage: 's', maxRuns: 5 };
    await put(2);
    await create(20, 'tight');
    let held = await claim(2, 'tight', 's');
    const answer = await finish(held[0], 'done', next);
    assert.equal(answer.claims.length, 1, 'as many as have room');
    await put(0);
    const free = await finish(held[1], 'done', next);
    assert.equal(free.claims.length, 5);
    held = [...answer.claims, ...free.claims];
    await put(4);
    assert.equal((await finish(held[0], 'done', next)).claims.length, 0, 'five are at work');
    assert.equal((await finish(held[1], 'done', next)).claims.length, 0, 'four are');
    assert.equal((await finish(held[2], 'done', next)).claims.length, 1);
  });

  void test('who is refused gets no claim, and the others get theirs', async () => {
    await create(8);
    const held = await claim(3);
    const lost = { ...held[1], leaseToken: held[0]?.leaseToken ?? '' } as Claim;
    const [first, second, third] = await Promise.all([
      finish(held[0], 'initialized', { stage: 'initialize' }),
      failure(finish(lost, 'initialized', { stage: 'initialize', maxRuns: 3 })),
      finish(held[2], 'initialized', { stage: 'initialize' }),
    ]);
    assert.equal(second.reason, 'LEASE_LOST');
    assert.deepEqual([first.claims.length, third.claims.length], [1, 1]);
    const { runs } = await baton.jobs.listRuns({ filter: { statuses: ['new'] } });
    assert.equal(runs.length, 3, 'nothing was claimed for the refused one');
  });

  void test('a paused stage gives nothing, an unknown one leaves the run as it is', async () => {
    await create(3);
    const held = await claim(2);
    await baton.pipelines.pausePipeline({ name: 'ci', stage: 'initialize' });
    const answer = await finish(held[0], 'initialized', { stage: 'initialize' });
    assert.deepEqual([answer.run?.status, answer.claims.length], ['initialized', 0]);
    const refused = await failure(finish(held[1], 'initialized', { stage: 'nowhere' }));
    assert.equal(refused.reason, 'STAGE_NOT_FOUND');
    const { run } = await baton.jobs.getRun({ id: held[1]?.run?.id ?? '' });
    assert.equal(run?.status, 'initializing');
  });
});
