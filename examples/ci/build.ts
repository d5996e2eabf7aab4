import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run, type Command } from './children.js';
import { locked } from './lock.js';

/** The repository's root, seen from `dist/examples/ci`. */
export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const EXAMPLE = join(ROOT, 'examples', 'ci');
/** Everything made here is kept for the next time, and ignored by git. */
const BUILD = join(EXAMPLE, '.build');
const VENV = join(BUILD, 'venv');
const PYTHON_STUBS = join(BUILD, 'python');
const GO_STUBS = join(EXAMPLE, 'baton-jobs', 'gen');
const GO_MODULE = join(EXAMPLE, 'run');
const RUN_WORKER = join(BUILD, 'run-worker');

/** Something that the user has to install. */
export class MissingTool extends Error {}

async function need(
  tool: string,
  args: readonly string[],
  isEnough: (output: string) => boolean,
  hint: string,
): Promise<void> {
  const output = await run({ program: tool, args }).catch(() => undefined);
  if (output === undefined) throw new MissingTool(`${tool} is missing or does not work: ${hint}`);
  if (!isEnough(output)) throw new MissingTool(`${tool} is too old (${output.trim()}): ${hint}`);
}

/** @throws MissingTool that says what is missing */
export async function checkTools(): Promise<void> {
  const atLeast = (minor: number, pattern: RegExp) => (output: string) =>
    Number(pattern.exec(output)?.[1]) >= minor;
  await need('git', ['--version'], () => true, 'install git');
  // ensurepip is what Debian leaves out of python3 without its package python3-venv.
  const python = ['-c', 'import ensurepip, sys, venv; print(sys.version)'];
  await need(
    'python3',
    python,
    atLeast(10, /^3\.(\d+)/),
    'install Python 3.10 or newer with its venv module (Debian: python3-venv)',
  );
  await need(
    'go',
    ['env', 'GOVERSION'],
    atLeast(24, /^go1\.(\d+)/),
    'install Go 1.24 or newer from https://go.dev/dl',
  );
}

/** One hash over files and words: what is built is built again when it changes. */
async function fingerprint(files: readonly string[], words: readonly string[] = []): Promise<string> {
  const hash = createHash('sha256').update(words.join('\n'));
  for (const file of files) hash.update(await readFile(file));
  return hash.digest('hex');
}

/** Does the step unless it was done for the same inputs; a step that was interrupted is done from the start. */
async function once(name: string, inputs: string, step: () => Promise<void>): Promise<void> {
  const stamp = join(BUILD, `${name}.stamp`);
  if ((await readFile(stamp, 'utf8').catch(() => '')) === inputs) return;
  console.log(`${'build'.padEnd(10)} | ${name}`);
  await rm(stamp, { force: true });
  await step();
  await writeFile(stamp, inputs);
}

async function protoFiles(): Promise<string[]> {
  const folder = join(ROOT, 'proto', 'baton', 'v1');
  return (await readdir(folder))
    .filter((name) => name.endsWith('.proto'))
    .sort()
    .map((name) => join(folder, name));
}

async function buildPython(protos: readonly string[], signal: AbortSignal): Promise<void> {
  const python = join(VENV, 'bin', 'python');
  const requirements = join(EXAMPLE, 'initialize', 'requirements.txt');
  // A virtual environment does not survive a move, nor another Python.
  const version = await run({ program: 'python3', args: ['--version'] }, signal);
  const environment = await fingerprint([requirements], [VENV, version]);
  await once('python-packages', environment, async () => {
    await run({ program: 'python3', args: ['-m', 'venv', '--clear', VENV] }, signal);
    const install = [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--disable-pip-version-check',
      '--requirement',
      requirements,
    ];
    await run({ program: python, args: install }, signal);
  });
  await once('python-stubs', await fingerprint(protos, [environment]), async () => {
    await rm(PYTHON_STUBS, { recursive: true, force: true });
    await mkdir(PYTHON_STUBS);
    const out = ['python', 'pyi', 'grpc_python'].map((plugin) => `--${plugin}_out=${PYTHON_STUBS}`);
    const include = `-I${join(ROOT, 'proto')}`;
    await run({ program: python, args: ['-m', 'grpc_tools.protoc', include, ...out, ...protos] }, signal);
  });
}

async function generateGo(protos: readonly string[], signal: AbortSignal): Promise<void> {
  const template = join(EXAMPLE, 'buf.gen.yaml');
  await once('go-stubs', await fingerprint([template, join(GO_MODULE, 'go.mod'), ...protos]), async () => {
    await rm(GO_STUBS, { recursive: true, force: true });
    const buf = join(ROOT, 'node_modules', '.bin', 'buf');
    await run({ program: buf, args: ['generate', '--template', template], cwd: ROOT }, signal);
  });
}

/** Builds the Go program of a module, which may import the stubs. Go knows by itself what has changed. */
export async function buildGo(module: string, output: string, signal: AbortSignal): Promise<void> {
  const env = { CGO_ENABLED: '0', GOWORK: 'off' };
  await run({ program: 'go', args: ['build', '-o', output, '.'], cwd: module, env }, signal);
}

/** Generates the Python and Go stubs from `proto/`, as far as that has not been done before. */
export async function buildStubs(signal: AbortSignal): Promise<void> {
  await mkdir(BUILD, { recursive: true });
  const protos = await protoFiles();
  await locked(join(BUILD, 'lock'), signal, async () => {
    // What Baton's protos import and protoc does not bring.
    await run({ program: 'npm', args: ['run', '--silent', 'protos'], cwd: ROOT }, signal);
    await Promise.all([buildPython(protos, signal), generateGo(protos, signal)]);
  });
}

/** Generates the stubs and builds both workers. */
export async function build(signal: AbortSignal): Promise<void> {
  await buildStubs(signal);
  await buildGo(GO_MODULE, RUN_WORKER, signal);
}

export interface WorkerSettings {
  /** Baton's gRPC listener, host:port. */
  readonly server: string;
  /** Where the clones are; the same for both workers. */
  readonly workDir: string;
  readonly leaseSeconds: number;
}

/** A Python program that may import the stubs. */
export function pythonProgram(script: string, ...args: string[]): Command {
  return {
    program: join(VENV, 'bin', 'python'),
    args: [script, ...args],
    env: { PYTHONPATH: PYTHON_STUBS, PYTHONUNBUFFERED: '1', PYTHONDONTWRITEBYTECODE: '1' },
  };
}

export function initializeWorker({ server, workDir, leaseSeconds }: WorkerSettings): Command {
  const script = join(EXAMPLE, 'initialize', 'worker.py');
  return pythonProgram(script, '--server', server, '--work-dir', workDir, '--lease', String(leaseSeconds));
}

export function runWorker({ server, workDir, leaseSeconds }: WorkerSettings): Command {
  return {
    program: RUN_WORKER,
    args: ['--server', server, '--work-dir', workDir, '--lease', `${leaseSeconds}s`],
  };
}

export function watcher(server: string, label: string, untilEnded: number): Command {
  const script = fileURLToPath(new URL('watch.js', import.meta.url));
  return {
    program: process.execPath,
    args: [script, '--server', server, '--label', label, '--until-ended', String(untilEnded)],
  };
}
