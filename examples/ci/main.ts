/**
 * The whole example in one command: builds the two workers, starts the three services against a running server,
 * lets one run pass and one fail, and tells how both ended.
 *
 *     node dist/examples/ci/main.js --help
 */
import { randomUUID } from 'node:crypto';
import { mkdtemp, readdir, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { timestampMs } from '@bufbuild/protobuf/wkt';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import { build, checkTools, initializeWorker, MissingTool, ROOT, runWorker, watcher } from './build.js';
import { startChild, type Child } from './children.js';
import { connect, type Jobs } from './client.js';
import { batonsOwn, type Case } from './own.js';

const HELP = `Usage: node dist/examples/ci/main.js [options]

  --server <host:port>       Baton's gRPC listener (default 127.0.0.1:50051)
  --repository <path or URL> the repository to test (default: this checkout of Baton,
                             with a broken commit on top of it for the failing run)
  --ref <ref>                branch, tag or commit of the passing run (default HEAD)
  --command <line>           its test command (default: told by the files in the repository;
                             for Baton: its tests of the contract)
  --failing-ref <ref>        branch, tag or commit of the failing run (default: that of --ref)
  --failing-command <line>   its test command (default: the same; without --failing-ref, with a false assertion after it)
  --lease <seconds>          how long a run stays claimed without a sign of life (default 60)
  --timeout <seconds>        how long everything may take (default 900)

Exit code: 0 when one run has passed and the other has failed by its tests, 2 when a tool is missing, else 1.
`;
const TAIL_LINES = 12;
/** What fails after tests that pass, where nobody has named a commit or a command that fails. */
const FALSE_ASSERTION = `node -e "require('node:assert/strict').equal('the tests pass', 'the tests fail')"`;

interface Flags {
  readonly server: string;
  readonly repository: string | undefined;
  readonly ref: string;
  readonly command: string | undefined;
  readonly failingRef: string | undefined;
  readonly failingCommand: string | undefined;
  readonly leaseSeconds: number;
  readonly timeoutSeconds: number;
}

function readFlags(): Flags | undefined {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    options: {
      help: { type: 'boolean' },
      server: { ...text, default: '127.0.0.1:50051' },
      repository: text,
      ref: { ...text, default: 'HEAD' },
      command: text,
      'failing-ref': text,
      'failing-command': text,
      lease: { ...text, default: '60' },
      timeout: { ...text, default: '900' },
    },
  });
  if (values.help === true) return undefined;
  const seconds = (name: 'lease' | 'timeout'): number => {
    const value = Number(values[name]);
    if (!(value >= 1)) throw new Error(`--${name} must be a number of seconds`);
    return value;
  };
  return {
    server: values.server,
    repository: values.repository,
    ref: values.ref,
    command: values.command,
    failingRef: values['failing-ref'],
    failingCommand: values['failing-command'],
    leaseSeconds: seconds('lease'),
    timeoutSeconds: seconds('timeout'),
  };
}

interface Stage {
  readonly flags: Flags;
  readonly jobs: Jobs;
  /** A folder that is removed at the end. */
  readonly temporary: string;
  /** What is stopped at the end. */
  readonly children: Child[];
  readonly signal: AbortSignal;
}

/** The passing and the failing run that the flags ask for. */
async function casesOf({ flags, temporary, signal }: Stage): Promise<[Case, Case]> {
  const { ref, command, failingRef } = flags;
  if (flags.repository === undefined && failingRef === undefined && flags.failingCommand === undefined) {
    return batonsOwn({ ref, command, brokenClone: join(temporary, 'broken'), signal });
  }
  // A path is meant from here, while the worker may be elsewhere. What does not exist is a URL, or git says that it is not.
  const named = flags.repository ?? ROOT;
  const repository = await realpath(named).catch(() => named);
  let { failingCommand } = flags;
  if (failingCommand === undefined) {
    if (failingRef !== undefined) failingCommand = command;
    else failingCommand = command === undefined ? FALSE_ASSERTION : `(${command}) && ${FALSE_ASSERTION}`;
  }
  return [
    { repository, ref, command },
    { repository, ref: failingRef ?? ref, command: failingCommand },
  ];
}

/** How a run ended, for people. */
function summary(
  expected: string,
  { id, status, repository, output, error, createTime, endTime }: Run,
): string {
  const took = createTime && endTime ? (timestampMs(endTime) - timestampMs(createTime)) / 1000 : NaN;
  const text = (key: string): string => (typeof output?.[key] === 'string' ? output[key] : '');
  const tail = text('log_tail').trimEnd().split('\n').slice(-TAIL_LINES);
  return [
    `${expected} run ${id}: ${status} after ${took.toFixed(1)} s`,
    `  repository  ${repository}`,
    `  commit      ${text('commit')}`,
    ...(error === undefined ? [] : [`  error       ${error.code}: ${error.message}`]),
    ...tail.map((line) => `  output      ${line}`),
    '',
  ].join('\n');
}

/** Creates both runs once the services are up, and waits until the watcher has seen them end. */
async function watchBoth(stage: Stage, cases: readonly Case[], workDir: string): Promise<Run[]> {
  const { flags, jobs, children, signal } = stage;
  const start = (...args: Parameters<typeof startChild>): Child => {
    signal.throwIfAborted();
    const child = startChild(...args);
    children.push(child);
    return child;
  };
  const label = randomUUID();
  const watching = start('watch', watcher(flags.server, `example=${label}`, cases.length));
  // From here on no change is missed: the stream is open before the first run is created.
  await watching.printed('watching from');
  const settings = { server: flags.server, leaseSeconds: flags.leaseSeconds, workDir };
  const workers = [start('initialize', initializeWorker(settings)), start('run', runWorker(settings))];

  const { runs } = await jobs.batchCreateRuns({
    requests: cases.map(({ repository, ref, command }, i) => ({
      repository,
      labels: { example: label, expected: i === 0 ? 'success' : 'error' },
      input: { ref, ...(command === undefined ? {} : { command }) },
      requestId: `${label}-${i}`,
    })),
  });
  const lost = workers.map(async (worker) => {
    throw new Error(`a worker ended by itself (${await worker.ended})`);
  });
  const seen = await Promise.race([watching.ended, ...lost]);
  signal.throwIfAborted();
  if (seen !== 0) throw new Error(`the watcher ended by itself (${seen})`);
  // A worker that is asked to end cleans up first.
  await Promise.all(workers.map((worker) => worker.stop()));
  return Promise.all(runs.map(async ({ id }) => (await jobs.getRun({ id })).run!));
}

/** @returns the exit code */
async function demonstrate(stage: Stage): Promise<number> {
  const { flags, jobs, temporary } = stage;
  await jobs.listRuns({ pageSize: 1 }).catch((error: unknown) => {
    throw new Error(`no Baton server answers at ${flags.server}; start one with \`npm start\``, {
      cause: error,
    });
  });
  await build(stage.signal);
  const workDir = await mkdtemp(join(temporary, 'work-'));
  const runs = await watchBoth(stage, await casesOf(stage), workDir);

  const [passing, failing] = runs as [Run, Run];
  console.log(`\n${summary('passing', passing)}\n${summary('failing', failing)}`);
  const left = await readdir(workDir);
  if (left.length > 0) throw new Error(`the workers have left clones behind: ${left.join(', ')}`);
  if (passing.state !== RunState.SUCCEEDED) throw new Error('the run that should have passed has not');
  if (failing.state !== RunState.FAILED || failing.error?.code !== 'TEST_FAILED') {
    throw new Error('the run that should have failed by its tests has not');
  }
  console.log('As intended: one run has passed, and one has failed.');
  return 0;
}

/** @returns the exit code */
async function main(): Promise<number> {
  const flags = readFlags();
  if (flags === undefined) {
    process.stdout.write(HELP);
    return 0;
  }
  await checkTools();
  const interrupted = new AbortController();
  const timer = setTimeout(
    () => interrupted.abort(new Error(`not done after ${flags.timeoutSeconds} s`)),
    flags.timeoutSeconds * 1000,
  );
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.once(signal, () => interrupted.abort(new Error(`stopped by ${signal}`)));
  const aborted = new Promise<never>((_, reject) => {
    interrupted.signal.addEventListener('abort', () => reject(interrupted.signal.reason as Error), {
      once: true,
    });
  });
  const children: Child[] = [];
  const { jobs, close } = connect(flags.server);
  // The real path, since git and Go tell paths by it where the folder for temporary files is a link.
  const temporary = await realpath(await mkdtemp(join(tmpdir(), 'baton-example-ci-')));
  try {
    const stage = { flags, jobs, temporary, children, signal: interrupted.signal };
    return await Promise.race([demonstrate(stage), aborted]);
  } finally {
    clearTimeout(timer);
    await Promise.all(children.map((child) => child.stop()));
    close();
    await rm(temporary, { recursive: true, force: true, maxRetries: 5 });
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`example: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = error instanceof MissingTool ? 2 : 1;
}
