import { spawn, type ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import pg from 'pg';
import { waitFor } from './wait.js';
import { Truth } from './chaos_truth.js';

const SLOT = 'chaos';

/**
 * Follows the write-ahead log through a logical replication slot with PostgreSQL's own client, which comes back by
 * itself when the server was away.
 */
export class Oracle {
  readonly truth: Truth;
  readonly #url: string;
  readonly #child: ChildProcess;
  #stopped = false;
  #marks = 0;
  failure: string | undefined;

  private constructor(url: string, child: ChildProcess, truth: Truth) {
    this.truth = truth;
    this.#url = url;
    this.#child = child;
    if (child.stdout === null) throw new Error('pg_recvlogical has no output');
    createInterface({ input: child.stdout, crlfDelay: Number.POSITIVE_INFINITY }).on('line', (line) => {
      try {
        this.truth.take(line);
      } catch (error) {
        this.failure ??= String(error);
      }
    });
    child.once('exit', (code) => {
      if (!this.#stopped) this.failure ??= `pg_recvlogical ended with ${code}`;
    });
  }

  /** Makes the slot and begins to follow. Must come before anything writes, or holds a transaction open. */
  static async start(binDir: string, url: string, truth = new Truth()): Promise<Oracle> {
    await admin(url, (client) =>
      client.query(`select pg_create_logical_replication_slot($1, 'test_decoding')`, [SLOT]),
    );
    const child = spawn(
      join(binDir, 'pg_recvlogical'),
      [
        '--start',
        '-S',
        SLOT,
        '-d',
        url,
        '-f',
        '-',
        '-F',
        '1',
        '-s',
        '1',
        '-o',
        'include-xids=1',
        '-o',
        'skip-empty-xacts=1',
      ],
      { stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, PGTZ: 'UTC' } },
    );
    return new Oracle(url, child, truth);
  }

  /** Waits until everything that is committed by now was decoded. */
  async complete(): Promise<Truth> {
    this.#marks += 1;
    const mark = `content:mark ${this.#marks}.`;
    await admin(this.#url, (client) =>
      client.query(`select pg_logical_emit_message(true, 'chaos', $1)`, [mark.slice('content:'.length)]),
    );
    await waitFor(
      () => this.truth.lastMessage.includes(mark) || this.failure !== undefined,
      'the oracle to reach the end of the write-ahead log',
      60_000,
    );
    if (this.failure !== undefined) throw new Error(`the oracle failed: ${this.failure}`);
    return this.truth;
  }

  stop(): void {
    this.#stopped = true;
    this.#child.kill('SIGKILL');
  }
}

async function admin<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => undefined);
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
