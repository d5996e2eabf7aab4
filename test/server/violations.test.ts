/** Whatever is wrong with a request is named at once, whether its messages or its rules say so. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { anyUnpack } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import { BadRequestSchema } from '../../gen/google/rpc/error_details_pb.js';
import { describeOnPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer, type TestServer } from '../support/server.js';

/** What the domain cannot hold, so that the conversion finds it; every other mistake is found by the service. */
const NEVER = { seconds: 999_999_999_999n };
const NEGATIVE = { seconds: -1n };
const UNKNOWN_STATE = 99;

describeOnPostgres('all violations of a request', (open) => {
  let database: TestDatabase;
  let baton: TestServer;

  before(async () => {
    database = await open();
    baton = await startTestServer(database.url);
  });

  after(async () => {
    await baton.stop();
    await database.drop();
  });

  const fieldsOf = async (call: Promise<unknown>): Promise<string[]> => {
    const { code, fields } = await failure(call);
    assert.equal(code, Code.InvalidArgument);
    return fields.sort();
  };

  const itemFields = async (requests: Parameters<TestServer['jobs']['batchUpdateStatus']>[0]['requests']) => {
    const { results } = await baton.jobs.batchUpdateStatus({ requests: requests ?? [] });
    return results.map(({ result }) => {
      const details = result.case === 'error' ? result.value.details : [];
      const bad = details.flatMap((detail) => anyUnpack(detail, BadRequestSchema) ?? []);
      return bad.flatMap(({ fieldViolations }) => fieldViolations.map(({ field }) => field)).sort();
    });
  };

  void test('those of its messages and those of its rules are in one answer', async () => {
    const { jobs, pipelines } = baton;
    const run = { scheduleTime: NEVER, priority: 10 };
    assert.deepEqual(await fieldsOf(jobs.createRun(run)), ['priority', 'schedule_time']);
    assert.deepEqual(await fieldsOf(jobs.batchCreateRuns({ requests: [{ maxAttempts: -1 }, run] })), [
      'requests[0].max_attempts',
      'requests[1].priority',
      'requests[1].schedule_time',
    ]);
    const list = { filter: { states: [UNKNOWN_STATE], stages: ['No'] }, pageSize: -1 };
    assert.deepEqual(await fieldsOf(jobs.listRuns(list)), [
      'filter.stages[0]',
      'filter.states[0]',
      'page_size',
    ]);
    assert.deepEqual(await fieldsOf(jobs.claimNext({ wait: NEGATIVE, maxRuns: -1 })), [
      'max_runs',
      'stage',
      'wait',
    ]);
    const update = { progress: Number.NaN, status: 'No', claimNext: { leaseDuration: NEGATIVE } };
    assert.deepEqual(await fieldsOf(jobs.updateStatus(update)), [
      'claim_next.lease_duration',
      'claim_next.stage',
      'lease_token',
      'progress',
      'run_id',
      'status',
    ]);
    assert.deepEqual(await fieldsOf(jobs.extendLeases({ leases: [{}], leaseDuration: NEGATIVE })), [
      'lease_duration',
      'leases[0].lease_token',
      'leases[0].run_id',
    ]);
    const filter = { states: [UNKNOWN_STATE] };
    assert.deepEqual(await fieldsOf(jobs.cancelRuns({ filter, reason: '\0' })), [
      'filter.states[0]',
      'reason',
    ]);
    assert.deepEqual(await fieldsOf(jobs.retryRuns({ filter, stage: 'No' })), ['filter.states[0]', 'stage']);
    const stage = { name: 's', processingStatus: 'at', doneStatus: 'at', timeout: NEGATIVE };
    assert.deepEqual(await fieldsOf(pipelines.putPipeline({ pipeline: { name: 'No', stages: [stage] } })), [
      'pipeline.name',
      'pipeline.stages[0].done_status',
      'pipeline.stages[0].timeout',
    ]);
    const watch = async (): Promise<void> => {
      const stream = jobs.watchRuns({ bookmarkInterval: NEGATIVE, untilTerminal: true });
      for await (const _ of stream) return;
    };
    assert.deepEqual(await fieldsOf(watch()), ['bookmark_interval', 'filter.run_ids']);
  });

  void test('those of an item of a batch are under its own place, whatever the items before it are', async () => {
    const token = { runId: '00000000-0000-7000-8000-000000000000', leaseToken: 'x', status: 'new' };
    assert.deepEqual(
      await itemFields([
        { ...token, progress: Number.NaN, status: 'No' },
        { ...token, runId: '' },
        { ...token, claimNext: { wait: NEGATIVE } },
      ]),
      [
        ['requests[0].progress', 'requests[0].status'],
        ['requests[1].run_id'],
        ['requests[2].claim_next.wait'],
      ],
    );
  });

  void test('a batch has 1 to 1000 items, the bad ones included', async () => {
    const { jobs } = baton;
    assert.deepEqual(await fieldsOf(jobs.batchCreateRuns({})), ['requests']);
    assert.deepEqual(await fieldsOf(jobs.batchUpdateStatus({})), ['requests']);
    assert.deepEqual(await fieldsOf(jobs.extendLeases({ leaseDuration: NEGATIVE })), [
      'lease_duration',
      'leases',
    ]);
    const items = Array.from({ length: 1001 }, () => ({ progress: Number.NaN }));
    assert.deepEqual(await fieldsOf(jobs.batchUpdateStatus({ requests: items })), ['requests']);
  });
});
