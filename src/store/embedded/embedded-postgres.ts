import { realpath } from 'node:fs/promises';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { Logger } from '../../base/log.js';
import { locateNativeDir, prepareBinaries, type ServerBinaries } from './binaries.js';
import { checkCluster, createCluster, makeDataDir, placeCluster } from './cluster.js';
import { databaseUrl, ensureDatabase } from './database.js';
import { acquireDirectoryLock } from './directory-lock.js';
import { EmbeddedPostgresError } from './errors.js';
import { stopOrphan } from './orphan.js';
import { createPassword, readPassword, resetPassword } from './password.js';
import { choosePort, rememberPort } from './port.js';
import {
  launchPostmaster,
  stopPostmaster,
  waitUntilReady,
  type LaunchOptions,
  type Postmaster,
  type ServerExit,
} from './postmaster.js';
import { openServerLog } from './server-log.js';
import type { ServerUser } from './command.js';
import { chooseServerUser } from './server-user.js';

export { EmbeddedPostgresError } from './errors.js';
export type { ServerExit } from './postmaster.js';

/** How often a start is tried again because somebody took the port between its choice and its use. */
const PORT_ATTEMPTS_MAX = 5;
/** How long the processes of a server whose postmaster was killed get to notice and end. */
const OLD_PROCESSES_TIMEOUT_MS = 15_000;
const OLD_PROCESSES_RETRY_MS = 200;

/** Where root keeps what PostgreSQL's user must reach and cannot reach in the checkout or data directory. */
const SYSTEM_DIR = '/var/lib/baton';

export interface EmbeddedPostgresOptions {
  /** Directory for everything that is kept; made if missing. A relative path is below the working directory. */
  readonly dataDir: string;
  readonly log: Logger;
  /** Ends a start that is under way; without effect once it is complete. */
  readonly signal?: AbortSignal;
  /** More of PostgreSQL's settings. Those that this module depends on (port, addresses, log) cannot be changed. */
  readonly settings?: Readonly<Record<string, string>>;
  /**
   * Where copies of the binaries go when they cannot run in place, and for root also the cluster when the server's
   * user cannot reach the data directory. Default: `/var/lib/baton` for root, else `baton` in the user's cache.
   */
  readonly systemDir?: string;
  /** The directory with PostgreSQL's `bin`, `lib` and `share`. Default: the npm package's for this platform. */
  readonly nativeDir?: string;
}

export interface EmbeddedPostgres {
  /** Connection URL of the database `baton`, with the password. */
  readonly url: string;
  /** PostgreSQL's version, for example `18.4`. */
  readonly version: string;
  /** Absolute path of the data directory. */
  readonly dataDir: string;
  /** Process id of the postmaster. */
  readonly pid: number;
  /** Resolves when the server has ended, whether it was asked to or not. Never rejects. */
  readonly exited: Promise<ServerExit>;
  /**
   * Stops the server and frees the data directory; also needed after it ended by itself. Resolves when the
   * server's process is gone, at the latest when two named timeouts have passed and it was killed. Every call
   * returns the same promise.
   */
  stop(): Promise<void>;
}

/**
 * Starts a PostgreSQL of our own on the data directory, as the only one to do so, and makes its cluster and
 * the database `baton` if they are not there yet. In this order:
 *
 * 1. Lock the data directory, or fail at once with the process id of the holder.
 * 2. Choose the user to run as and a place that this user can reach, for the binaries and for the cluster.
 * 3. Refuse a cluster of another major version.
 * 4. Stop the server of a predecessor that was killed.
 * 5. Make the cluster if there is none. From here on there is a complete one.
 * 6. Start the server, wait until it accepts connections, make the database if it is missing.
 *
 * Below `dataDir`: `postgres/` (the cluster, or a link to it), `postgres.log`, `postgres.password`,
 * `postgres.port`, `server.lock/`.
 *
 * Throws EmbeddedPostgresError, or the signal's reason; nothing is left running or locked then.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  options.signal?.throwIfAborted();
  const dataDir = resolve(options.dataDir);
  const nativeDir = options.nativeDir ?? locateNativeDir();
  await makeDataDir(dataDir);
  const held = new Held();
  try {
    const lock = await acquireDirectoryLock(join(dataDir, 'server.lock'), `The data directory ${dataDir}`);
    held.add(() => lock.release());
    return await startLocked({ ...options, dataDir, nativeDir }, held);
  } catch (error) {
    await held.giveBack();
    throw error;
  }
}

/** What a start has taken so far, given back in reverse order. */
class Held {
  readonly #undo: (() => Promise<void>)[] = [];

  add(undo: () => Promise<void>): void {
    this.#undo.push(undo);
  }

  async giveBack(): Promise<void> {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) await undo();
  }
}

type ResolvedOptions = EmbeddedPostgresOptions & { readonly nativeDir: string };

async function startLocked(options: ResolvedOptions, held: Held): Promise<EmbeddedPostgres> {
  const { dataDir, nativeDir, log, signal, settings = {} } = options;
  const systemDir = resolve(options.systemDir ?? defaultSystemDir());
  const user = await chooseServerUser(join(dataDir, 'postgres'));
  const copyRoots = [systemDir, dataDir];
  const binaries = await prepareBinaries({ nativeDir, user, copyRoots, log, signal });
  const cluster = await placeCluster(dataDir, user, systemDir, log);
  await lockElsewhere(cluster, dataDir, held);

  const exists = await checkCluster(cluster, binaries, user);
  const unrelatedPid = exists ? await stopOrphan(cluster, log, signal) : undefined;
  const password = await preparePassword({ exists, dataDir, cluster, binaries, user, signal });
  if (!exists) await createCluster({ cluster, binaries, user, password, signal });

  const serverLog = await openServerLog(join(dataDir, 'postgres.log'));
  held.add(() => serverLog.close());
  const launch = { binaries, cluster, settings, user, log: serverLog, unrelatedPid };
  const { postmaster, port } = await startServer(launch, dataDir, held, signal);
  await ensureDatabase(port, password);
  signal?.throwIfAborted();
  await rememberPort(dataDir, port);
  log.info({ port, pid: postmaster.pid, cluster }, `PostgreSQL ${binaries.version} is ready`);

  let stopping: Promise<void> | undefined;
  return {
    url: databaseUrl(port, password),
    version: binaries.version,
    dataDir,
    pid: postmaster.pid,
    exited: postmaster.exited,
    stop: () => (stopping ??= held.giveBack()),
  };
}

/** Root's copies serve everybody; any other user's are his own, as are the binaries that he runs. */
function defaultSystemDir(): string {
  if (process.getuid?.() === 0) return SYSTEM_DIR;
  const cache = process.env['XDG_CACHE_HOME'];
  return join(cache !== undefined && cache !== '' ? cache : join(homedir(), '.cache'), 'baton');
}

/** Two data directories (one copied from the other) may have links to one cluster: that needs its own lock. */
async function lockElsewhere(cluster: string, dataDir: string, held: Held): Promise<void> {
  if (dirname(cluster) === (await realpath(dataDir))) return;
  const lock = await acquireDirectoryLock(`${cluster}.lock`, `The database ${cluster}`);
  held.add(() => lock.release());
}

async function preparePassword(options: {
  readonly exists: boolean;
  readonly dataDir: string;
  readonly cluster: string;
  readonly binaries: ServerBinaries;
  readonly user: ServerUser | undefined;
  readonly signal: AbortSignal | undefined;
}): Promise<string> {
  const stored = await readPassword(options.dataDir);
  if (stored !== undefined) return stored;
  const password = await createPassword(options.dataDir);
  if (options.exists) {
    const { cluster, binaries, user, signal } = options;
    await resetPassword(cluster, password, binaries, user, signal);
  }
  return password;
}

/** Starts the server, again and again while the reason why it does not start is one that passes. */
async function startServer(
  options: Omit<LaunchOptions, 'port'>,
  dataDir: string,
  held: Held,
  signal: AbortSignal | undefined,
): Promise<{ postmaster: Postmaster; port: number }> {
  const deadline = performance.now() + OLD_PROCESSES_TIMEOUT_MS;
  for (let portsTaken = 0; ;) {
    signal?.throwIfAborted();
    const port = await choosePort(dataDir);
    const mark = await options.log.mark();
    const postmaster = await launchHeld({ ...options, port }, held);
    if (await waitUntilReady(postmaster, options.cluster, signal)) return { postmaster, port };

    const tail = await options.log.tail(mark);
    if (/could not bind IPv4 address/.test(tail) && ++portsTaken < PORT_ATTEMPTS_MAX) continue;
    // Sessions of a server whose postmaster was killed end when they next look up from their work.
    if (/pre-existing shared memory block/.test(tail) && performance.now() < deadline) {
      await delay(OLD_PROCESSES_RETRY_MS, undefined, signal === undefined ? {} : { signal });
      continue;
    }
    const { code, signal: endedBy } = await postmaster.exited;
    throw new EmbeddedPostgresError(
      `PostgreSQL did not start (${endedBy ?? `exit code ${code}`}). The end of ${dataDir}/postgres.log:\n${tail}`,
    );
  }
}

/** From its first moment on, the server is stopped with whatever else is given back, and with this process. */
async function launchHeld(options: LaunchOptions, held: Held): Promise<Postmaster> {
  const postmaster = await launchPostmaster(options);
  // The last chance when the process ends without having called stop(): nobody can wait for the end, then.
  const stopAtExit = () => postmaster.kill('SIGINT');
  process.once('exit', stopAtExit);
  held.add(async () => {
    await stopPostmaster(postmaster);
    process.off('exit', stopAtExit);
  });
  return postmaster;
}
