import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { checkTools, MissingTool } from '../../examples/ci/build.js';
import type { Command } from '../../examples/ci/children.js';
import { connect, type Jobs } from '../../examples/ci/client.js';
import { buildWorkers, goWorker, pythonWorker, type StageWorker } from '../../examples/workers/build.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { Program } from '../support/example_ci.js';
import { ANY_PORT, ServerProcess, temporaryDir } from '../support/process.js';
import { waitFor } from '../support/wait.js';
import { story } from '../support/workers.js';

/** The packages of both workers come over the network the first time. */
const BUILD_TIMEOUT_MS = 300_000;
const CLAIMED = ['CREATED new', 'CLAIMED initializing'];

async function whatIsMissing(): Promise<string | undefined> {
  try {
    await checkTools();
    return undefined;
  } catch (error) {
    if (!(error instanceof MissingTool) || process.env['BATON_REQUIRE_ALL'] === '1') throw error;
    return error.message;
  }
}

const missing = await whatIsMissing();

void describe('examples/workers in Python and Go', { skip: missing ?? false }, () => {
  let remove: () => Promise<void>;
  let server: ServerProcess;
  let jobs: Jobs;
  let close: () => void;

  before(async () => {
    const temporary = await temporaryDir();
    remove = temporary.remove;
    const args = ['serve', ...ANY_PORT, '--data-dir', join(temporary.path, 'data')];
    server = await new ServerProcess(args).ready();
    ({ jobs, close } = connect(server.grpcAddress));
    await buildWorkers(AbortSignal.timeout(BUILD_TIMEOUT_MS));
  });

  after(async () => {
    close();
    assert.equal(await server.end(), 0);
    await remove();
  });

  const start = (
    t: TestContext,
    make: (worker: StageWorker) => Command,
    stage: string,
    leaseSeconds = 20,
  ): Program => {
    const program = new Program(make({ server: server.grpcAddress, stage, leaseSeconds }));
    t.after(() => program.end('SIGKILL'));
    return program;
  };

  const create = async (input: Record<string, number> = {}): Promise<string> =>
    (await jobs.createRun({ input })).run!.id;
  const get = async (id: string): Promise<Run> => (await jobs.getRun({ id })).run!;
  const reaches = (id: string, status: string): Promise<void> =>
    waitFor(async () => (await get(id)).status === status, `the run to be ${status}`, 30_000);

  void test('20 runs pass through two stages in two languages, one of them at its second attempt', async (t) => {
    const workers = [start(t, pythonWorker, 'initialize'), start(t, goWorker, 'run')];
    const ids = await Promise.all(
      Array.from({ length: 20 }, (_, n) => create(n === 7 ? { failures: 1 } : {})),
    );
    for (const [index, id] of ids.entries()) {
      await reaches(id, 'success');
      const once = [...CLAIMED, 'STAGE_COMPLETED initialized', 'CLAIMED running', 'SUCCEEDED success'];
      const told = await story(jobs, id);
      if (index !== 7) assert.deepEqual(told, once);
      else assert.equal(told.filter((change) => change.startsWith('RETRY_SCHEDULED')).length, 2, told.join());
      assert.deepEqual((await get(id)).output, { by: 'go' });
    }
    for (const worker of workers) assert.equal(await worker.end('SIGTERM'), 0, worker.output);
  });

  for (const [name, make, other] of [
    ['Python', pythonWorker, goWorker],
    ['Go', goWorker, pythonWorker],
  ] as const) {
    void test(`${name}: the lease is kept, and a run that is canceled ends as such`, async (t) => {
      start(t, make, 'initialize', 2);
      const id = await create({ tenths: 600 });
      await reaches(id, 'initializing');
      const expiry = async (): Promise<bigint> => (await get(id)).leaseExpireTime?.seconds ?? 0n;
      const claimed = await expiry();
      await waitFor(async () => (await expiry()) >= claimed + 4n, 'two leases to pass', 15_000);
      await jobs.cancelRun({ runId: id });
      await reaches(id, 'canceled');
      assert.deepEqual(await story(jobs, id), [
        ...CLAIMED,
        'CANCEL_REQUESTED initializing',
        'CANCELED canceled',
      ]);
    });

    void test(`${name}: SIGTERM hands the run back, which costs no attempt`, async (t) => {
      const worker = start(t, make, 'initialize');
      const id = await create({ tenths: 600 });
      await reaches(id, 'initializing');
      assert.equal(await worker.end('SIGTERM'), 0, worker.output);
      assert.deepEqual(await story(jobs, id), [...CLAIMED, 'RELEASED new']);
      assert.equal((await get(id)).attempt, 0);
      await jobs.cancelRun({ runId: id });
      // One that waits for runs ends too, and takes none with it.
      const idle = start(t, make, 'initialize');
      await waitFor(async () => /^baton_claims_waiting [1-9]/m.test(await metrics()), 'the worker to wait');
      assert.equal(await idle.end('SIGTERM'), 0, idle.output);
    });

    void test(`${name}: the run of a worker that was killed is finished by the other`, async (t) => {
      const killed = start(t, make, 'initialize', 2);
      const id = await create({ tenths: 30 });
      await reaches(id, 'initializing');
      await killed.end('SIGKILL');
      start(t, other, 'initialize');
      await reaches(id, 'initialized');
      assert.deepEqual(await story(jobs, id), [
        ...CLAIMED,
        'LEASE_EXPIRED new',
        'CLAIMED initializing',
        'STAGE_COMPLETED initialized',
      ]);
      await jobs.cancelRun({ runId: id });
    });

    void test(`${name}: a worker that stood still beyond its lease stops, and what it reports is refused`, async (t) => {
      const worker = start(t, make, 'initialize', 2);
      const id = await create({ tenths: 600 });
      await reaches(id, 'initializing');
      worker.child.kill('SIGSTOP');
      const { claims } = await jobs.claimNext({ stage: 'initialize', wait: { seconds: 30n } });
      const held = claims[0];
      assert.equal(held?.run?.id, id);
      worker.child.kill('SIGCONT');
      await worker.printed(`${id} canceled`);
      await waitFor(
        async () => /^baton_claims_waiting [1-9]/m.test(await metrics()),
        'it to wait for others',
      );
      await jobs.updateStatus({ runId: id, leaseToken: held.leaseToken, status: 'initialized' });
      assert.deepEqual(await story(jobs, id), [
        ...CLAIMED,
        'LEASE_EXPIRED new',
        'CLAIMED initializing',
        'STAGE_COMPLETED initialized',
      ]);
      await jobs.cancelRun({ runId: id });
    });
  }

  const metrics = async (): Promise<string> => (await fetch(`${server.httpUrl}/metrics`)).text();
});
