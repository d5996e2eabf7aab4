/** The answer of each RPC is lost on its way back, and the call is made again as a client would: nothing happens twice. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { JobService, type Claim } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { connectCalls, type CallConnection } from '../support/chaos_calls.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

type Calls = Pick<CallConnection, 'jobs' | 'pipelines'>;

/** One RPC: what has to be there before, the call, and what a client is told that makes it again. */
interface Case {
  readonly prepare?: (calls: Calls) => Promise<Claim | string | undefined>;
  readonly call: (calls: Calls, before: { readonly id: string; readonly token: string }) => Promise<unknown>;
  /** The reason that stands for success the second time; OK without it. */
  readonly again?: string;
  /** How many changes of runs and pipelines the first call makes; the second never makes any. */
  readonly changes: number;
}

const STAGE = { name: 's', processingStatus: 'at', doneStatus: 'done' };
const PIPELINE = { pipeline: { name: 'p', stages: [STAGE] } };
const LABELS = { of: 'test' };

const run = async ({ jobs }: Calls): Promise<string> =>
  (await jobs.createRun({ labels: LABELS })).run?.id ?? '';
const held = async (calls: Calls): Promise<Claim | undefined> => {
  await run(calls);
  return (await calls.jobs.claimNext({ stage: 'initialize' })).claims[0];
};
const ended = async (calls: Calls): Promise<string> => {
  const id = await run(calls);
  await calls.jobs.cancelRun({ runId: id });
  return id;
};
const defined = async ({ pipelines }: Calls): Promise<undefined> =>
  void (await pipelines.putPipeline(PIPELINE));

const CASES: Readonly<Record<string, Case>> = {
  createRun: { call: ({ jobs }) => jobs.createRun({ requestId: 'one' }), changes: 1 },
  batchCreateRuns: {
    call: ({ jobs }) => jobs.batchCreateRuns({ requests: [{ requestId: 'one' }, { requestId: 'two' }] }),
    changes: 2,
  },
  getRun: { prepare: run, call: ({ jobs }, { id }) => jobs.getRun({ id }), changes: 0 },
  listRuns: { prepare: run, call: ({ jobs }) => jobs.listRuns({}), changes: 0 },
  claimNext: {
    prepare: run,
    call: ({ jobs }) => jobs.claimNext({ stage: 'initialize', workerId: 'w', requestId: 'one' }),
    changes: 1,
  },
  updateStatus: {
    prepare: async (calls) => {
      await run(calls);
      return held(calls);
    },
    call: async ({ jobs }, { id, token }) => {
      const claimNext = { stage: 'initialize', workerId: 'w', requestId: 'one' };
      const request = { runId: id, leaseToken: token, status: 'initialized', output: { n: 1 }, claimNext };
      const { run: shown, claims } = await jobs.updateStatus(request);
      return { shown, claims };
    },
    changes: 2,
  },
  batchUpdateStatus: {
    prepare: held,
    call: ({ jobs }, { id, token }) =>
      jobs.batchUpdateStatus({ requests: [{ runId: id, leaseToken: token, status: 'error' }] }),
    changes: 1,
  },
  extendLeases: {
    prepare: held,
    call: async ({ jobs }, { id, token }) => {
      const leases = [{ runId: id, leaseToken: token, progress: 0.5, checkpoint: { n: 1 } }];
      return (await jobs.extendLeases({ leases })).results.map(({ outcome }) => outcome);
    },
    changes: 1,
  },
  cancelRun: {
    prepare: run,
    call: ({ jobs }, { id }) => jobs.cancelRun({ runId: id, reason: 'r' }),
    changes: 1,
  },
  cancelRuns: {
    prepare: held,
    call: async ({ jobs }) => void (await jobs.cancelRuns({ filter: { labels: LABELS } })),
    changes: 1,
  },
  retryRun: {
    prepare: ended,
    call: ({ jobs }, { id }) => jobs.retryRun({ runId: id }),
    again: 'RUN_NOT_TERMINAL',
    changes: 1,
  },
  retryRuns: {
    prepare: ended,
    call: async ({ jobs }) => void (await jobs.retryRuns({ filter: { labels: LABELS } })),
    changes: 1,
  },
  listRunEvents: { prepare: run, call: ({ jobs }, { id }) => jobs.listRunEvents({ runId: id }), changes: 0 },
  // Each counts as a definition of its own, which is the same as the one before.
  putPipeline: {
    prepare: defined,
    call: async ({ pipelines }) => (await pipelines.putPipeline(PIPELINE)).pipeline?.stages,
    changes: 0,
  },
  getPipeline: { call: ({ pipelines }) => pipelines.getPipeline({ name: 'ci' }), changes: 0 },
  listPipelines: { call: ({ pipelines }) => pipelines.listPipelines({}), changes: 0 },
  deletePipeline: {
    prepare: defined,
    call: ({ pipelines }) => pipelines.deletePipeline({ name: 'p' }),
    again: 'PIPELINE_NOT_FOUND',
    changes: 1,
  },
  pausePipeline: {
    call: async ({ pipelines }) =>
      (await pipelines.pausePipeline({ name: 'ci', stage: 'run' })).pipeline?.stages,
    changes: 1,
  },
  resumePipeline: {
    prepare: async ({ pipelines }) => void (await pipelines.pausePipeline({ name: 'ci' })),
    call: async ({ pipelines }) => (await pipelines.resumePipeline({ name: 'ci' })).pipeline?.paused,
    changes: 1,
  },
  getStats: { call: ({ pipelines }) => pipelines.getStats({ pipeline: 'ci' }), changes: 0 },
};

void test('every RPC with one answer has its case', () => {
  const unary = [...JobService.methods, ...PipelineService.methods].filter(
    ({ methodKind }) => methodKind === 'unary',
  );
  assert.deepEqual(Object.keys(CASES).sort(), unary.map(({ localName }) => localName).sort());
});

describeOnEveryPostgres('a lost reply', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let proxy: FaultProxy;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    proxy = await FaultProxy.start({ host: '127.0.0.1', port: baton.server.grpc.port });
  });

  afterEach(async () => {
    await proxy.close();
    await baton.stop();
    await database.drop();
  });

  /** All changes that were ever made to runs, and what pipelines are and whether they are paused. */
  const look = async (): Promise<{ readonly events: number; readonly pipelines: string }> => {
    const [row] = await database.pool.query<{ events: number; pipelines: string }>(
      `select
        (select count(*) from baton.run_events)::int as events,
        (select jsonb_agg(to_jsonb(p) - '{generation,update_time}'::text[] || jsonb_build_object('stages',
           (select jsonb_agg(to_jsonb(s) order by s.position) from baton.stages s where s.pipeline = p.name)) order by p.name)
         from baton.pipelines p)::text as pipelines`,
    );
    assert.ok(row);
    return row;
  };

  for (const [name, { prepare, call, again, changes }] of Object.entries(CASES))
    void test(`of ${name} is harmless, and the call may be made again`, async () => {
      const given = await prepare?.(baton);
      const before =
        typeof given === 'object'
          ? { id: given.run?.id ?? '', token: given.leaseToken }
          : { id: given ?? '', token: '' };
      const start = await look();
      const through = connectCalls({ grpcAddress: `127.0.0.1:${proxy.port}` });
      // The connection is made; what comes back on it from now on is an answer.
      await through.pipelines.getPipeline({ name: 'ci' });
      proxy.mode = 'drop-to-client';
      const first = call(through, before);
      first.catch(() => undefined);
      let made = start;
      const isDone = async (): Promise<boolean> => {
        made = await look();
        const count = made.events - start.events + Number(made.pipelines !== start.pipelines);
        return proxy.lostBytes > 0 && count === changes;
      };
      await waitFor(isDone, `${changes} changes to be made, and the answer to be lost`);
      const second = within(call(baton, before), 'the second call');
      if (again === undefined)
        assert.deepEqual(await second, await call(baton, before), 'it says the same each time');
      else assert.equal((await failure(second)).reason, again);
      assert.deepEqual(await look(), made);
      through.close();
    });
});
