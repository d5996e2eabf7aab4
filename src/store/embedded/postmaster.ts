import { spawn, type ChildProcess } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ServerBinaries } from './binaries.js';
import { asUser, commandEnvironment } from './command.js';
import { EmbeddedPostgresError, errorCode } from './errors.js';
import { LOOPBACK } from './port.js';
import type { ServerLog } from './server-log.js';
import type { ServerUser } from './command.js';
import { waitUntil } from './wait.js';

/** Replaying what a crash left is limited by max_wal_size and takes far less than this. */
const READY_TIMEOUT_MS = 120_000;
/** A fast shutdown ends sessions and writes a checkpoint. */
export const FAST_SHUTDOWN_TIMEOUT_MS = 10_000;
/** In an immediate shutdown the postmaster kills whatever has not ended after 5 s by itself. */
export const IMMEDIATE_SHUTDOWN_TIMEOUT_MS = 8_000;

/** How the server process ended; one of the two is null. */
export interface ServerExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface LaunchOptions {
  readonly binaries: ServerBinaries;
  readonly cluster: string;
  readonly port: number;
  readonly settings: Readonly<Record<string, string>>;
  readonly user: ServerUser | undefined;
  readonly log: ServerLog;
  /** Process id in a stale postmaster.pid that now belongs to a process which is not this cluster's server. */
  readonly unrelatedPid: number | undefined;
}

/** A server process of our own: the parent of all of PostgreSQL's processes. */
export interface Postmaster {
  readonly pid: number;
  /** Resolves when the process has ended, for whatever reason. Never rejects. */
  readonly exited: Promise<ServerExit>;
  hasExited(): boolean;
  kill(signal: NodeJS.Signals): void;
}

/**
 * Starts the server process. It leads a session of its own, so the terminal's Ctrl-C does not reach it: the
 * order in which things stop is for this process to decide.
 */
export async function launchPostmaster(options: LaunchOptions): Promise<Postmaster> {
  const env = commandEnvironment();
  // PostgreSQL refuses to start while the process named by postmaster.pid lives, whatever that process is.
  // This is pg_ctl's way to say of one id that it is not a server. Deleting the file instead would also
  // disable the check that no process of the old server is still attached to its shared memory.
  if (options.unrelatedPid !== undefined) env['PG_GRANDPARENT_PID'] = String(options.unrelatedPid);
  const child = spawn(options.binaries.postgres, serverArguments(options), {
    ...asUser(options.user),
    cwd: '/',
    env,
    detached: true,
    stdio: ['ignore', options.log.fd, options.log.fd],
  });
  const exited = new Promise<ServerExit>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
  child.on('error', () => {}); // A signal that could not be sent shows in the exit that does not come.
  return postmasterOf(child, exited);
}

function postmasterOf(child: ChildProcess, exited: Promise<ServerExit>): Postmaster {
  if (child.pid === undefined) throw new EmbeddedPostgresError('PostgreSQL could not be started.');
  return {
    pid: child.pid,
    exited,
    hasExited: () => child.exitCode !== null || child.signalCode !== null,
    kill: (signal) => void child.kill(signal),
  };
}

/** The last value of a setting counts: what the caller must not change comes after what he may set. */
function serverArguments({ cluster, port, settings }: LaunchOptions): string[] {
  const fixed: Readonly<Record<string, string>> = {
    listen_addresses: LOOPBACK,
    port: String(port),
    // A socket's path may have about 100 characters, a checkout's path may well have more.
    unix_socket_directories: '',
    // Everything to standard error, which is the log file.
    log_destination: 'stderr',
    logging_collector: 'off',
  };
  const all = [...Object.entries(settings), ...Object.entries(fixed)];
  return ['-D', cluster, ...all.flatMap(([name, value]) => ['-c', `${name}=${value}`])];
}

/**
 * Waits until the server accepts connections, and reports false when it ended instead. Throws when it takes
 * too long and rejects with the signal's reason when it is aborted; the server may then still run.
 */
export async function waitUntilReady(
  postmaster: Postmaster,
  cluster: string,
  signal?: AbortSignal,
): Promise<boolean> {
  const decided = async () => postmaster.hasExited() || (await isReady(postmaster.pid, cluster));
  if (await waitUntil(decided, READY_TIMEOUT_MS, signal)) return !postmaster.hasExited();
  throw new EmbeddedPostgresError(
    `PostgreSQL (process ${postmaster.pid}) was not ready for connections after ${READY_TIMEOUT_MS / 1_000} s.`,
  );
}

/** The server keeps its state in the 8th line of postmaster.pid; pg_ctl waits for the same word. */
async function isReady(pid: number, cluster: string): Promise<boolean> {
  const lines = await readPidFile(cluster);
  return lines[0] === String(pid) && lines[7] === 'ready';
}

/** The lines of postmaster.pid; none when the file is not there, as after every clean shutdown. */
export async function readPidFile(cluster: string): Promise<readonly string[]> {
  try {
    const content = await readFile(join(cluster, 'postmaster.pid'), 'utf8');
    return content.split('\n').map((line) => line.trim());
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return [];
    throw error;
  }
}

/**
 * Stops the server: a fast shutdown (ends sessions, writes a checkpoint), after `fastMs` an immediate one (the
 * next start replays the log), and after `immediateMs` more the process is killed. Committed data is safe in
 * all three. Returns when the process has ended.
 */
export async function stopPostmaster(
  postmaster: Postmaster,
  fastMs = FAST_SHUTDOWN_TIMEOUT_MS,
  immediateMs = IMMEDIATE_SHUTDOWN_TIMEOUT_MS,
): Promise<void> {
  postmaster.kill('SIGINT');
  if (await exitedWithin(postmaster, fastMs)) return;
  postmaster.kill('SIGQUIT');
  if (await exitedWithin(postmaster, immediateMs)) return;
  postmaster.kill('SIGKILL');
  await postmaster.exited;
}

async function exitedWithin(postmaster: Postmaster, timeoutMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<false>((resolve) => {
    timer = setTimeout(resolve, timeoutMs, false);
  });
  try {
    return await Promise.race([postmaster.exited.then(() => true), timeout]);
  } finally {
    clearTimeout(timer);
  }
}
