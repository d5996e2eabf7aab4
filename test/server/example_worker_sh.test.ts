import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { ROOT } from '../../examples/ci/build.js';
import { connect, type Jobs } from '../../examples/ci/client.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { freePorts } from '../support/free_ports.js';
import { processesWith, Program } from '../support/example_ci.js';
import { ServerProcess, temporaryDir } from '../support/process.js';
import { waitFor } from '../support/wait.js';
import { story } from '../support/workers.js';

const SCRIPT = join(ROOT, 'examples', 'worker.sh');
const CLAIMED = ['CREATED new', 'CLAIMED initializing'];
const execute = promisify(execFile);

async function whatIsMissing(): Promise<string | undefined> {
  for (const tool of ['bash', 'curl', 'jq']) {
    try {
      await execute(tool, ['--version']);
    } catch (error) {
      if (process.env['BATON_REQUIRE_ALL'] === '1') throw error;
      return `${tool} is missing`;
    }
  }
  return undefined;
}

const missing = await whatIsMissing();

void describe('examples/worker.sh', { skip: missing ?? false }, () => {
  let dir: string;
  let remove: () => Promise<void>;
  let args: readonly string[];
  let server: ServerProcess;
  let jobs: Jobs;
  let close: () => void;

  before(async () => {
    ({ path: dir, remove } = await temporaryDir());
    const [grpc, http] = await freePorts(2);
    const listen = ['--grpc-listen', `127.0.0.1:${grpc}`, '--http-listen', `127.0.0.1:${http}`];
    args = ['serve', ...listen, '--data-dir', join(dir, 'data')];
    server = await new ServerProcess(args).ready();
    ({ jobs, close } = connect(server.grpcAddress));
  });

  after(async () => {
    close();
    assert.equal(await server.end(), 0);
    await remove();
  });

  /** The script with a command line for the shell. */
  const start = (t: TestContext, command: string, leaseSeconds = 20): Program => {
    const options = ['-u', server.httpUrl, '-l', String(leaseSeconds)];
    const program = new Program({
      program: 'bash',
      args: [SCRIPT, ...options, 'bash', '-c', command],
      env: { TMPDIR: dir },
    });
    t.after(() => program.end('SIGKILL'));
    return program;
  };

  const get = async (id: string): Promise<Run> => (await jobs.getRun({ id })).run!;
  const create = async (repository = ''): Promise<string> => (await jobs.createRun({ repository })).run!.id;
  const reaches = (id: string, status: string): Promise<void> =>
    waitFor(async () => (await get(id)).status === status, `the run to be ${status}`, 30_000);

  void test('the command gets the run, and what it prints becomes the output', async (t) => {
    const ids = [await create('shop'), await create('"quoted" \\ name')];
    const command = `jq -r .repository; echo "$BATON_RUN_ID $BATON_REPOSITORY $BATON_ATTEMPT" >&2; printf 'a\\0\\377b'`;
    const worker = start(t, command);
    for (const [id, name] of [
      [ids[0]!, 'shop'],
      [ids[1]!, '"quoted" \\ name'],
    ] as const) {
      await reaches(id, 'initialized');
      const output = `${name}\n${id} ${name} 1\na\ufffdb`;
      assert.deepEqual((await get(id)).output, { exit_code: 0, output });
      assert.deepEqual(await story(jobs, id), [...CLAIMED, 'STAGE_COMPLETED initialized']);
    }
    assert.equal(await worker.end('SIGTERM'), 0, worker.output);
  });

  void test('a command that fails is tried again, and not when it says that it is final', async (t) => {
    start(t, 'echo "attempt $BATON_ATTEMPT"; (( BATON_ATTEMPT > 1 )) && exit 65; exit 7');
    const id = await create();
    await reaches(id, 'error');
    const told = await story(jobs, id);
    assert.deepEqual(told, [...CLAIMED, 'RETRY_SCHEDULED new', 'CLAIMED initializing', 'FAILED error']);
    const { error, output } = await get(id);
    assert.deepEqual([error?.code, error?.message], ['EXIT_65', 'attempt 2\n']);
    assert.deepEqual(output, { exit_code: 65, output: 'attempt 2\n' });
  });

  void test('the lease is kept, and a cancel ends the command with all that it has started', async (t) => {
    const mark = join(dir, 'cancel-mark');
    start(t, `sleep 600 & exec -a ${mark} sleep 600`, 3);
    const id = await create();
    await reaches(id, 'initializing');
    const expiry = async (): Promise<bigint> => (await get(id)).leaseExpireTime?.seconds ?? 0n;
    const claimed = await expiry();
    await waitFor(async () => (await expiry()) >= claimed + 4n, 'two leases to pass', 20_000);
    assert.ok((await processesWith(`BATON_RUN_ID=${id}`)).length > 0);
    await jobs.cancelRun({ runId: id });
    await reaches(id, 'canceled');
    assert.deepEqual(await story(jobs, id), [
      ...CLAIMED,
      'CANCEL_REQUESTED initializing',
      'CANCELED canceled',
    ]);
    assert.deepEqual(await processesWith(`BATON_RUN_ID=${id}`), [], 'processes of the command are left');
  });

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    void test(`${signal} hands the run back at no cost, and leaves nothing`, async (t) => {
      const worker = start(t, 'sleep 600');
      const id = await create();
      await reaches(id, 'initializing');
      await waitFor(async () => (await processesWith(`BATON_RUN_ID=${id}`)).length > 0, 'the command to run');
      assert.equal(await worker.end(signal), 0, worker.output);
      assert.deepEqual(await story(jobs, id), [...CLAIMED, 'RELEASED new']);
      assert.equal((await get(id)).attempt, 0);
      assert.deepEqual(await processesWith(`BATON_RUN_ID=${id}`), []);
      assert.deepEqual(await processesWith(SCRIPT), []);
      await jobs.cancelRun({ runId: id });
    });
  }

  void test('a server that is killed and comes back is waited for', async (t) => {
    const gate = join(dir, 'gate');
    const worker = start(t, `while [ ! -e '${gate}' ]; do sleep 0.05; done; echo through`, 60);
    const id = await create();
    await reaches(id, 'initializing');
    await server.end('SIGKILL');
    await writeFile(gate, '');
    await waitFor(() => worker.output.includes('trying again'), 'the report to fail', 20_000);
    server = await new ServerProcess(args).ready();
    await reaches(id, 'initialized');
    assert.deepEqual(await story(jobs, id), [...CLAIMED, 'STAGE_COMPLETED initialized']);
    assert.equal(await worker.end('SIGTERM'), 0, worker.output);
  });

  void test('it says how it is used', async () => {
    const used = new Program({ program: 'bash', args: [SCRIPT] });
    assert.equal(await used.exited, 2);
    assert.match(used.output, /^usage: /);
    assert.match(await readFile(SCRIPT, 'utf8'), /^#!\/usr\/bin\/env bash/);
  });
});
