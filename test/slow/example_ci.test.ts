import assert from 'node:assert/strict';
import { chmod, mkdtemp, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import {
  build,
  checkTools,
  initializeWorker,
  MissingTool,
  ROOT,
  runWorker,
} from '../../examples/ci/build.js';
import { connect, type Jobs } from '../../examples/ci/client.js';
import { isCheckout } from '../../examples/ci/own.js';
import { EventType, type RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { exampleCommand, makeRepository, processesWith, Program } from '../support/example_ci.js';
import { LONG } from '../support/long.js';
import { ANY_PORT, ServerProcess, temporaryDir } from '../support/process.js';
import { waitFor, within } from '../support/wait.js';

/** The packages of both workers come over the network the first time. */
const BUILD_TIMEOUT_MS = 300_000;
const EXAMPLE_TIMEOUT_MS = 60_000;
/** It builds Baton twice, and in a long run it installs all packages before. */
const OWN_TIMEOUT_MS = 240_000;
/** The packages are those of the checkout, which has the same lock file. */
const LINKED = `ln -s '${join(ROOT, 'node_modules')}' . && npx tsc --preserveSymlinks && node dist/test/run.js contract`;

/** The story of a run: `CLAIMED initializing`, and so on. */
const story = (events: readonly RunEvent[]): string[] =>
  events.map(({ type, run }) => `${EventType[type]} ${run?.status}`);

const textOf = (run: Run, key: string): string => {
  const value = run.output?.[key];
  return typeof value === 'string' ? value : '';
};

const CLONED = ['CREATED new', 'CLAIMED initializing', 'STAGE_COMPLETED initialized'];

/** Whatever is missing is said; where everything is required, as in CI, it is a failure. */
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

void describe('examples/ci', { skip: missing ?? false }, () => {
  let dir: string;
  let remove: () => Promise<void>;
  let server: ServerProcess;
  let jobs: Jobs;
  let close: () => void;

  before(async () => {
    ({ path: dir, remove } = await temporaryDir());
    server = await new ServerProcess(['serve', ...ANY_PORT, '--data-dir', join(dir, 'data')]).ready();
    ({ jobs, close } = connect(server.grpcAddress));
    await build(AbortSignal.timeout(BUILD_TIMEOUT_MS));
  });

  after(async () => {
    close();
    assert.equal(await server.end(), 0);
    await remove();
  });

  const historyOf = async (run: Run): Promise<RunEvent[]> =>
    (await jobs.listRunEvents({ runId: run.id, pageSize: 1000, includePayload: true })).events;

  /** The run of the example that was to end so; there is one. */
  const runThatShould = async (expected: string, repository: string): Promise<Run> => {
    const { runs } = await jobs.listRuns({
      filter: { labels: { expected }, repository },
      includePayload: true,
    });
    assert.equal(runs.length, 1, `${expected} on ${repository}`);
    return runs[0]!;
  };

  /** Runs the one command to its end, and proves that nothing of it is left. */
  const runExample = async (t: TestContext, timeoutMs: number, ...args: string[]): Promise<Program> => {
    const temporary = await mkdtemp(join(dir, 'tmp-'));
    await chmod(temporary, 0o755); // the tests that it runs may start a PostgreSQL as another user
    const example = new Program(exampleCommand(temporary, '--server', server.grpcAddress, ...args));
    t.after(() => example.end('SIGTERM'));
    const code = await within(example.exited, 'the example to end', timeoutMs).catch((error: unknown) => {
      throw new Error(`the example hangs:\n${example.output}`, { cause: error });
    });
    assert.equal(code, 0, example.output);
    assert.deepEqual(await readdir(temporary), [], 'temporary files are left');
    assert.deepEqual(await processesWith(temporary), [], 'processes are left');
    return example;
  };

  test('one command: a real repository, one run that passes and one that fails', async (t) => {
    const repository = join(dir, 'repository');
    const commits = await makeRepository(repository);
    const example = await runExample(
      t,
      EXAMPLE_TIMEOUT_MS,
      '--repository',
      repository,
      '--failing-ref',
      'broken',
    );

    const passed = await runThatShould('success', repository);
    const passedHistory = await historyOf(passed);
    assert.deepEqual(story(passedHistory), [...CLONED, 'CLAIMED running', 'SUCCEEDED success']);
    assert.equal(passed.output?.['commit'], commits.good);
    assert.equal(passed.output?.['exit_code'], 0);
    assert.match(textOf(passed, 'log_tail'), /✔ two and three[^]*✔ nothing and one[^]*pass 2/);

    const failed = await runThatShould('error', repository);
    const failedHistory = await historyOf(failed);
    assert.deepEqual(story(failedHistory), [...CLONED, 'CLAIMED running', 'FAILED error']);
    assert.equal(failed.error?.code, 'TEST_FAILED');
    assert.equal(failed.output?.['commit'], commits.broken);
    assert.equal(failed.output?.['exit_code'], 1);
    assert.match(textOf(failed, 'log_tail'), /✖ two and three[^]*fail 2[^]*AssertionError/);

    // Two workers in two languages; each stage shows what the one before has left.
    for (const [, claimed, cloned, running] of [passedHistory, failedHistory]) {
      assert.match(claimed?.run?.workerId ?? '', /^initialize-py-/);
      assert.match(running?.run?.workerId ?? '', /^run-go-/);
      assert.equal(typeof cloned?.run?.output?.['workdir'], 'string');
    }

    // The watcher has printed every change of both, in the order of the log, and nothing else.
    const printed = [...example.output.matchAll(/^watch .*rev (\d+) {2}(\S+) {2}(\S+) → (\S+)/gm)].map(
      (match) => match.slice(1).join(' '),
    );
    const logged = [...passedHistory, ...failedHistory]
      .toSorted((a, b) => Number(a.revision - b.revision))
      .map((event) =>
        [event.revision, event.run?.id, event.previousStatus || '(created)', event.run?.status].join(' '),
      );
    assert.deepEqual(printed, logged);
  });

  test('a run whose worker is killed is claimed again, and the next worker ends it', async (t) => {
    const repository = join(dir, 'killed');
    await makeRepository(repository);
    const gate = join(dir, 'gate');
    const settings = {
      server: server.grpcAddress,
      workDir: await mkdtemp(join(dir, 'work-')),
      leaseSeconds: 3,
    };
    const services: Program[] = [];
    const start = (command: ReturnType<typeof runWorker>): Program => {
      const service = new Program(command);
      services.push(service);
      return service;
    };
    t.after(async () => {
      await writeFile(gate, ''); // also ends what a failed test would leave
      for (const service of services) await service.end('SIGTERM');
    });
    start(initializeWorker(settings));
    const killed = start(runWorker(settings));
    const command = `while [ ! -e '${gate}' ]; do sleep 0.05; done; npm test`;
    const { run } = await jobs.createRun({ repository, input: { command } });
    assert.ok(run);
    const statusOf = async (): Promise<string | undefined> => (await jobs.getRun({ id: run.id })).run?.status;
    await waitFor(async () => (await statusOf()) === 'running', 'the run to be running', 20_000);
    // It renews its lease: the claim would have ended by now.
    const ends = new Set<number | undefined>();
    await waitFor(
      async () => {
        const { run: held } = await jobs.getRun({ id: run.id });
        ends.add(held?.leaseExpireTime && timestampMs(held.leaseExpireTime));
        return ends.size > 3;
      },
      'three renewals',
      20_000,
    );
    await killed.end('SIGKILL');

    const next = start(runWorker(settings));
    await waitFor(
      () => next.output.includes(`${run.id}: running`),
      'the next worker to have the run',
      20_000,
    );
    await writeFile(gate, '');
    await waitFor(async () => (await statusOf()) === 'success', 'the run to succeed', 20_000);
    const told = story(await historyOf(run)).filter((change) => change !== 'UPDATED running');
    const rest = ['CLAIMED running', 'LEASE_EXPIRED initialized', 'CLAIMED running', 'SUCCEEDED success'];
    assert.deepEqual(told, [...CLONED, ...rest]);
    await waitFor(async () => (await readdir(settings.workDir)).length === 0, 'the clone to be removed');
  });

  test('a worker that is stopped hands its run back, at no cost', async (t) => {
    const repository = join(dir, 'stopped');
    await makeRepository(repository);
    const settings = {
      server: server.grpcAddress,
      workDir: await mkdtemp(join(dir, 'work-')),
      leaseSeconds: 60,
    };
    const workers = [new Program(initializeWorker(settings)), new Program(runWorker(settings))];
    t.after(async () => {
      for (const worker of workers) await worker.end('SIGTERM');
    });
    const { run } = await jobs.createRun({
      repository,
      input: { command: ['tail', '-f', join(repository, 'add.js')] },
    });
    assert.ok(run);
    await waitFor(() => workers[1]!.output.includes(`${run.id}: running`), 'the run to be running', 20_000);
    for (const worker of workers) assert.equal(await worker.end('SIGTERM'), 0, worker.output);
    assert.deepEqual(story(await historyOf(run)), [...CLONED, 'CLAIMED running', 'RELEASED initialized']);
    const left = (await jobs.getRun({ id: run.id })).run;
    assert.deepEqual([left?.status, left?.attempt], ['initialized', 0]);
    assert.deepEqual(await processesWith(repository), [], 'the command is left');
  });

  test('what cannot be cloned ends in error with the words of git', async (t) => {
    const settings = {
      server: server.grpcAddress,
      workDir: await mkdtemp(join(dir, 'work-')),
      leaseSeconds: 60,
    };
    const worker = new Program(initializeWorker(settings));
    t.after(() => worker.end('SIGTERM'));
    const { run } = await jobs.createRun({ repository: join(dir, 'nowhere') });
    assert.ok(run);
    await waitFor(async () => (await historyOf(run)).length === 3, 'the run to end', 20_000);
    const ended = (await jobs.getRun({ id: run.id })).run;
    assert.deepEqual([ended?.status, ended?.error?.code], ['error', 'CLONE_FAILED']);
    assert.match(ended?.error?.message ?? '', /nowhere' does not exist/);
    await waitFor(async () => (await readdir(settings.workDir)).length === 0, 'the folder to be removed');
  });

  test("Baton's own checkout: its tests pass, and find the mistake in a broken commit", async (t) => {
    if (!(await isCheckout(ROOT)) && process.env['BATON_REQUIRE_ALL'] !== '1') {
      t.skip('not in a git checkout');
      return;
    }
    await runExample(t, OWN_TIMEOUT_MS, ...(LONG ? [] : ['--command', LINKED]));
    const broken = await jobs.listRuns({
      ...{ filter: { labels: { expected: 'error' } }, pageSize: 1, includePayload: true },
    });
    const [passed, failed] = [await runThatShould('success', ROOT.replace(/\/$/, '')), broken.runs[0]!];
    assert.match(textOf(passed, 'log_tail'), /✔ contract: nothing of the last release is broken/);
    assert.match(textOf(failed, 'log_tail'), /✖ contract: nothing of the last release is broken/);
    assert.match(textOf(failed, 'log_tail'), /field "6" with name "repository"/);
  });
});
