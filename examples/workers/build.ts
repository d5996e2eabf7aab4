import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { buildGo, buildStubs, pythonProgram, ROOT } from '../ci/build.js';
import type { Command } from '../ci/children.js';

const EXAMPLE = join(ROOT, 'examples', 'workers');
const BUILD = join(EXAMPLE, '.build');
const GO_WORKER = join(BUILD, 'worker');

export interface StageWorker {
  /** Baton's gRPC listener, host:port. */
  readonly server: string;
  readonly stage: string;
  readonly leaseSeconds: number;
}

/** Makes the Python and the Go worker ready to run. */
export async function buildWorkers(signal: AbortSignal): Promise<void> {
  await mkdir(BUILD, { recursive: true });
  await buildStubs(signal);
  await buildGo(join(EXAMPLE, 'go'), GO_WORKER, signal);
}

export function pythonWorker(worker: StageWorker): Command {
  const { env, ...command } = pythonProgram(join(EXAMPLE, 'python', 'worker.py'));
  return { ...command, env: { ...env, ...settings(worker) } };
}

export function goWorker(worker: StageWorker): Command {
  return { program: GO_WORKER, args: [], env: settings(worker) };
}

function settings({ server, stage, leaseSeconds }: StageWorker): Record<string, string> {
  return { BATON: server, STAGE: stage, LEASE_S: String(leaseSeconds) };
}

/** Builds them when it is run as a program, and prints how each is started. */
if (process.argv[1] === import.meta.filename) {
  await buildWorkers(AbortSignal.timeout(600_000));
  for (const [index, make] of [pythonWorker, goWorker].entries()) {
    const stage = index === 0 ? 'initialize' : 'run';
    const { program, args, env = {} } = make({ server: '127.0.0.1:50051', stage, leaseSeconds: 30 });
    const words = [...Object.entries(env).map(([name, value]) => `${name}=${value}`), program, ...args];
    console.log(words.join(' '));
  }
}
