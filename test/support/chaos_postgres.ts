import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { chown, mkdir, readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { waitFor, within } from './wait.js';

const run = promisify(execFile);

/** Everything durable, because a kill must not lose a commit that somebody has seen. */
const SETTINGS: Readonly<Record<string, string>> = {
  fsync: 'on',
  synchronous_commit: 'on',
  full_page_writes: 'on',
  wal_level: 'logical',
  max_connections: '200',
  max_replication_slots: '4',
  max_wal_senders: '4',
  shared_buffers: '128MB',
  max_wal_size: '2GB',
  // An installation that loses clients without a word needs this; without it locks would be held for ever.
  tcp_keepalives_idle: '5',
  listen_addresses: '127.0.0.1',
  unix_socket_directories: '',
};

interface Identity {
  readonly uid: number;
  readonly gid: number;
}

async function serverIdentity(): Promise<Identity | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const ask = async (flag: string): Promise<number> => Number((await run('id', [flag, 'postgres'])).stdout);
  return { uid: await ask('-u'), gid: await ask('-g') };
}

/** A PostgreSQL of its own for one run: durable, on a fixed port, and made to be killed. */
export class ChaosPostgres {
  readonly port: number;
  readonly #binDir: string;
  readonly #data: string;
  readonly #identity: Identity | undefined;
  #child: ChildProcess | undefined;
  #exited: Promise<unknown> = Promise.resolve();

  private constructor(binDir: string, data: string, port: number, identity: Identity | undefined) {
    this.#binDir = binDir;
    this.#data = data;
    this.port = port;
    this.#identity = identity;
  }

  /** @param dir a folder that every user may enter */
  static async start(binDir: string, dir: string, port: number): Promise<ChaosPostgres> {
    const identity = await serverIdentity();
    const data = join(dir, 'data');
    await mkdir(data, { mode: 0o700 });
    if (identity !== undefined) await chown(data, identity.uid, identity.gid);
    await run(
      join(binDir, 'initdb'),
      ['-D', data, '-U', 'baton', '-E', 'UTF8', '--locale', 'C', '-A', 'trust'],
      { cwd: dir, ...identity },
    );
    const postgres = new ChaosPostgres(binDir, data, port, identity);
    await postgres.up();
    return postgres;
  }

  url(database: string): string {
    return `postgresql://baton@127.0.0.1:${this.port}/${database}`;
  }

  async createDatabases(...names: readonly string[]): Promise<void> {
    const client = new pg.Client({ connectionString: this.url('postgres') });
    await client.connect();
    for (const name of names) await client.query(`create database ${name}`);
    await client.end();
  }

  /** Starts it, or finds it up, and waits until it takes connections. */
  async up(): Promise<void> {
    await waitFor(
      async () => {
        if (this.#child === undefined || this.#child.exitCode !== null || this.#child.signalCode !== null)
          this.#spawn();
        return answers(this.url('postgres'));
      },
      'PostgreSQL to take connections',
      60_000,
    );
  }

  #spawn(): void {
    const flags = Object.entries({ ...SETTINGS, port: String(this.port) }).flatMap(([name, value]) => [
      '-c',
      `${name}=${value}`,
    ]);
    const child = spawn(join(this.#binDir, 'postgres'), ['-D', this.#data, ...flags], {
      cwd: this.#data,
      stdio: 'ignore',
      ...this.#identity,
    });
    this.#child = child;
    this.#exited = new Promise((resolve) => child.once('close', resolve));
  }

  /** Ends it in an orderly way: sessions are told, everything is written. */
  async shutDown(): Promise<void> {
    this.#child?.kill('SIGINT');
    await within(this.#exited, 'PostgreSQL to shut down', 60_000);
  }

  /** Kills every process of it at once, as the loss of power would. */
  async kill(): Promise<void> {
    const pid = this.#child?.pid;
    if (pid === undefined) return;
    // Stopped first: a backend that it starts after the look at its children would outlive them, wait for ever for a lock
    // that one of the dead has, and keep the cluster from being started again.
    kill(pid, 'SIGSTOP');
    const standsStill = async (): Promise<boolean> => ['T', 'Z', undefined].includes(await stateOf(pid));
    await waitFor(standsStill, 'the postmaster to stand still', 30_000);
    const children = await childrenOf(pid);
    for (const victim of [pid, ...children]) kill(victim, 'SIGKILL');
    await within(this.#exited, 'PostgreSQL to be dead', 30_000);
    await waitFor(
      async () => (await Promise.all(children.map(isAlive))).every((alive) => !alive),
      'its backends to be dead',
      30_000,
    );
  }

  /** Kills one backend: PostgreSQL then ends all others and recovers. */
  killBackend(pid: number): void {
    kill(pid, 'SIGKILL');
  }

  /** For a harness that ends without having the time to wait. */
  killNow(): void {
    this.#child?.kill('SIGKILL');
  }

  async stop(): Promise<void> {
    this.#child?.kill('SIGQUIT');
    await within(this.#exited, 'PostgreSQL to stop', 30_000);
  }
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has ended by itself meanwhile.
  }
}

/** The letter by which Linux calls the state of a process; undefined for one that is gone. */
async function stateOf(pid: number): Promise<string | undefined> {
  return (await statOf(pid))?.[0];
}

/** What Linux says of a process behind its name, beginning with its state and its parent; undefined for one that is gone. */
async function statOf(pid: number): Promise<readonly string[] | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // "pid (name) state ppid": the name may have blanks in it.
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
}

async function isAlive(pid: number): Promise<boolean> {
  const state = await stateOf(pid);
  return state !== undefined && state !== 'Z';
}

async function childrenOf(parent: number): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number);
  const found = await Promise.all(
    pids.map(async (pid) => (Number((await statOf(pid))?.[1]) === parent ? pid : undefined)),
  );
  return found.filter((pid) => pid !== undefined);
}

async function answers(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2000 });
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
