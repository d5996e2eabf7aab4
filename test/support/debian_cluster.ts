import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chown, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { freePorts } from './free_ports.js';
import { waitFor } from './wait.js';
import pg from 'pg';

const run = promisify(execFile);

/** Where Debian and Ubuntu put the oldest PostgreSQL that is supported. */
const DEFAULT_BIN_DIR = '/usr/lib/postgresql/15/bin';

export interface TestCluster {
  readonly url: string;
  stop(): Promise<void>;
}

/** The folder with PostgreSQL 15's programs, or undefined where it is not installed. */
export function findPostgres15(): string | undefined {
  const binDir = process.env['BATON_TEST_PG15_BIN'] ?? DEFAULT_BIN_DIR;
  return existsSync(join(binDir, 'initdb')) ? binDir : undefined;
}

interface Identity {
  readonly uid: number;
  readonly gid: number;
}

/** PostgreSQL refuses to run as root; Debian's package comes with a user for it. */
export async function serverIdentity(): Promise<Identity | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const ask = async (flag: string): Promise<number> => Number((await run('id', [flag, 'postgres'])).stdout);
  return { uid: await ask('-u'), gid: await ask('-g') };
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  try {
    await client.connect();
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Runs a throw-away cluster of a PostgreSQL that the machine has installed. `dir` must be reachable for everybody. */
export async function startDebianCluster(
  binDir: string,
  dir: string,
  settings: Readonly<Record<string, string>>,
): Promise<TestCluster> {
  await runDebianTool(binDir, dir, 'initdb', [
    ...[
      '-D',
      await makeDataDir(dir),
      '-U',
      'baton',
      '-E',
      'UTF8',
      '--locale',
      'C',
      '-A',
      'trust',
      '--no-sync',
    ],
  ]);
  return serveDebianCluster(binDir, dir, settings);
}

/** The data of the cluster in `dir`: an empty folder that PostgreSQL may write to. */
export async function makeDataDir(dir: string): Promise<string> {
  const identity = await serverIdentity();
  const data = join(dir, 'data');
  await mkdir(data, { mode: 0o700, recursive: true });
  if (identity !== undefined) await chown(data, identity.uid, identity.gid);
  return data;
}

/** Runs one of PostgreSQL's programs to its end, as the user of the cluster. */
export async function runDebianTool(
  binDir: string,
  dir: string,
  name: string,
  args: readonly string[],
): Promise<void> {
  await run(join(binDir, name), [...args], { cwd: dir, ...(await serverIdentity()) });
}

/** Serves the data that are in `dir` already. */
export async function serveDebianCluster(
  binDir: string,
  dir: string,
  settings: Readonly<Record<string, string>>,
): Promise<TestCluster> {
  const identity = await serverIdentity();
  const data = join(dir, 'data');
  const options = { cwd: dir, ...identity };
  const [port = 0] = await freePorts(1);
  const all = { unix_socket_directories: '', ...settings, port: String(port), listen_addresses: '127.0.0.1' };
  const flags = Object.entries(all).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const child = spawn(join(binDir, 'postgres'), ['-D', data, ...flags], { ...options, stdio: 'ignore' });
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const url = `postgresql://baton@127.0.0.1:${port}/postgres`;
  await waitFor(() => answers(url), 'PostgreSQL 15 to take connections', 20_000);
  return {
    url,
    async stop() {
      child.kill('SIGINT');
      await exited;
    },
  };
}
