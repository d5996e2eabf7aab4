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

export function pythonWorker({ server, stage, leaseSeconds }: StageWorker): Command {
  const script = join(EXAMPLE, 'python', 'worker.py');
  return pythonProgram(script, '--server', server, '--stage', stage, '--lease', String(leaseSeconds));
}

export function goWorker({ server, stage, leaseSeconds }: StageWorker): Command {
  return {
    program: GO_WORKER,
    args: ['--server', server, '--stage', stage, '--lease', `${leaseSeconds}s`],
  };
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
