import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chown, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { serverIdentity } from './debian_cluster.js';
import { freePorts } from './free_ports.js';
import { temporaryDir } from './process.js';
import { waitFor } from './wait.js';

const PROGRAM = '/usr/sbin/pgbouncer';

/** The reason where it is missing and may be. */
export const skipWithoutPgbouncer =
  !existsSync(PROGRAM) && process.env['BATON_REQUIRE_ALL'] !== '1'
    ? 'PgBouncer is not installed (apt-get install pgbouncer)'
    : false;

export interface Pgbouncer {
  /** The database of `databaseUrl` through it. */
  readonly url: string;
  stop(): Promise<void>;
}

/** Runs a throw-away PgBouncer before a database; `settings` are more of its `[pgbouncer]`. */
export async function startPgbouncer(
  databaseUrl: string,
  poolMode: 'transaction' | 'session',
  settings: Readonly<Record<string, string>> = {},
): Promise<Pgbouncer> {
  const dir = await temporaryDir();
  const identity = await serverIdentity();
  const [port = 0] = await freePorts(1);
  const upstream = new URL(databaseUrl);
  const name = upstream.pathname.slice(1);
  const target = {
    host: upstream.hostname,
    port: upstream.port,
    dbname: name,
    user: decodeURIComponent(upstream.username),
    ...(upstream.password === '' ? {} : { password: decodeURIComponent(upstream.password) }),
  };
  const lines = Object.entries({
    listen_addr: '127.0.0.1',
    listen_port: String(port),
    unix_socket_dir: '',
    auth_type: 'any',
    pool_mode: poolMode,
    default_pool_size: '10',
    max_client_conn: '200',
    ...settings,
  }).map(([key, value]) => `${key} = ${value}`);
  const database = Object.entries(target).map(([key, value]) => `${key}='${value}'`);
  const file = join(dir.path, 'pgbouncer.ini');
  await writeFile(
    file,
    [`[databases]`, `${name} = ${database.join(' ')}`, '[pgbouncer]', ...lines, ''].join('\n'),
  );
  if (identity !== undefined) await chown(file, identity.uid, identity.gid);
  const child = spawn(PROGRAM, [file], { cwd: dir.path, ...identity, stdio: ['ignore', 'ignore', 'pipe'] });
  let output = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output += text));
  const exited = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const stop = async (): Promise<void> => {
    child.kill('SIGKILL');
    await exited;
    await dir.remove();
  };
  const url = `postgresql://baton@127.0.0.1:${port}/${name}`;
  try {
    await waitFor(() => answers(url), 'PgBouncer to take connections', 20_000);
  } catch (error) {
    await stop();
    throw new Error(`PgBouncer did not start:\n${output}`, { cause: error });
  }
  return { url, stop };
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  try {
    await client.connect();
    await client.query('select 1');
    return true;
  } catch {
    return false;
  } finally {
    await client.end().catch(() => undefined);
  }
}
