import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { createLogger } from '../../src/base/log.js';
import {
  startEmbeddedPostgres,
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
} from '../../src/store/embedded/embedded-postgres.js';
import { pidExists } from '../../src/store/embedded/process-identity.js';
import { waitUntil } from '../../src/store/embedded/wait.js';

/** No condition in these tests takes longer, unless something is broken. */
export const CONDITION_TIMEOUT_MS = 30_000;

const CHILD = fileURLToPath(new URL('embedded_child.js', import.meta.url));
const PREFIX = 'baton-embedded-';

export const isRoot = process.getuid?.() === 0;
export const rootOnly = isRoot ? {} : { skip: 'needs root, to become another user' };
export const linuxOnly = process.platform === 'linux' ? {} : { skip: 'needs /proc' };

/** Node as an ordinary user, as far as there is one to become. */
export const NOBODY = { uid: 65_534, gid: 65_534 };

/** Whether an ordinary user can run the compiled code, which he cannot below a home that is closed to others. */
const nobodyGetsHere = isRoot && spawnSync('/bin/sh', ['-c', 'test -r "$0"', CHILD], NOBODY).status === 0;

/** Who runs what is meant for an ordinary user: somebody else for root, where that works, or oneself. */
export const ORDINARY = nobodyGetsHere ? NOBODY : undefined;

/** Not skipped where everything is required: there, a checkout that is closed to others is a mistake. */
export const nobodyOnly =
  nobodyGetsHere || (isRoot && process.env['BATON_REQUIRE_ALL'] === '1')
    ? {}
    : { skip: isRoot ? 'needs a checkout that other users may read' : 'needs root, to become another user' };

export type Options = Omit<EmbeddedPostgresOptions, 'log' | 'dataDir'> & { dataDir?: string };

const cleanups = new WeakMap<TestContext, (() => Promise<unknown>)[]>();

/** Registers what to do after the test, last first: a server is stopped before its directory is removed. */
function cleanUp(t: TestContext, step: () => Promise<unknown>): void {
  const steps = cleanups.get(t);
  if (steps !== undefined) {
    steps.push(step);
    return;
  }
  const own = [step];
  cleanups.set(t, own);
  t.after(async () => {
    for (let next = own.pop(); next !== undefined; next = own.pop()) await next();
  });
}

/** A directory that is removed after the test. `mode` 0o700 keeps every other user out. */
export async function temporaryDir(t: TestContext, mode = 0o755): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), PREFIX));
  await chmod(dir, mode);
  cleanUp(t, () => rm(dir, { recursive: true, force: true, maxRetries: 5 }));
  return dir;
}

/** Starts one in this process and stops it after the test. */
export async function start(
  t: TestContext,
  options: Options & { dataDir: string },
): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres({ ...options, log: createLogger('silent') });
  cleanUp(t, () => postgres.stop());
  return postgres;
}

export interface ChildReport {
  readonly url?: string;
  readonly pid?: number;
  readonly error?: string;
}

export interface ChildServer {
  readonly process: ChildProcess;
  /** The line that the child prints when the start is decided. */
  readonly report: Promise<ChildReport>;
  /** Ends it and waits until it is gone. */
  end(signal: NodeJS.Signals): Promise<void>;
}

/** Starts one in a process of its own, optionally as another user. */
export function startChild(
  t: TestContext,
  options: Options & { exitWhenReady?: boolean },
  spawnOptions: {
    uid?: number;
    gid?: number;
    cwd?: string;
    env?: NodeJS.ProcessEnv;
    wrapper?: readonly string[];
  } = {},
): ChildServer {
  const { wrapper = [], ...rest } = spawnOptions;
  const [file, ...args] = [...wrapper, process.execPath, CHILD, JSON.stringify(options)];
  const child = spawn(file ?? process.execPath, args, { ...rest, stdio: ['ignore', 'pipe', 'inherit'] });
  const gone = once(child, 'exit');
  const failed = gone.then(([code, signal]): never => {
    throw new Error(`the child ended without a report (code ${code}, signal ${signal})`);
  });
  const report = Promise.race([
    once(createInterface(child.stdout), 'line').then(([line]): ChildReport => JSON.parse(line)),
    failed,
  ]);
  // A child whose report nobody asks for may end as it likes.
  report.catch(() => {});
  const end = async (signal: NodeJS.Signals) => {
    child.kill(signal);
    await gone;
  };
  cleanUp(t, () => end('SIGTERM'));
  return { process: child, report, end };
}

/** The report of a child that is expected to have started. */
export async function started(child: ChildServer): Promise<{ url: string; pid: number }> {
  const { url, pid, error } = await child.report;
  if (url === undefined || pid === undefined) throw new Error(error);
  return { url, pid };
}

export async function query(url: string, sql: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

export async function eventually(what: string, condition: () => boolean | Promise<boolean>): Promise<void> {
  if (await waitUntil(condition, CONDITION_TIMEOUT_MS)) return;
  throw new Error(`still not so after ${CONDITION_TIMEOUT_MS} ms: ${what}`);
}

export async function ended(pid: number): Promise<void> {
  await eventually(`process ${pid} is gone`, () => !pidExists(pid) || stateOf(pid).then((s) => s === 'Z'));
}

async function stateOf(pid: number): Promise<string> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => ') Z');
  return stat[stat.lastIndexOf(')') + 2] ?? '';
}

/** Processes that belong to these tests: PostgreSQL's all work in their cluster, initdb's name it. */
export function leftProcesses(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return `${readlinkSync(`/proc/${pid}/cwd`)} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8')}`;
      } catch {
        return ''; // it has just ended
      }
    })
    .filter((found) => found.includes(PREFIX));
}

export function leftDirectories(): string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith(PREFIX));
}
