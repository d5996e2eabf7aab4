import type pg from 'pg';
import { setImmediate as turn } from 'node:timers/promises';
import type { RunEvent } from '../../src/run/run.js';
import type { Queryable } from '../../src/store/pool.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { LOG_CHANNEL } from '../../src/watch/listener.js';
import { readLogPage } from '../../src/watch/tail.js';
import type { TestDatabase } from './database.js';
import { waitFor } from './wait.js';

/** Reads the log as the server does, by a cursor that only moves on, and remembers what it was given. */
export class TailingReader {
  readonly seen: RunEvent[] = [];
  readonly #db: Queryable;
  cursor: bigint;

  constructor(db: Queryable, after = 0n) {
    this.#db = db;
    this.cursor = after;
  }

  /** Starts behind everything that is committed now. */
  static async atHead(db: Queryable): Promise<TailingReader> {
    return new TailingReader(db, (await readHead(db)).revision);
  }

  /** Reads until a page comes back empty; says how many events came. */
  async drain(): Promise<number> {
    const before = this.seen.length;
    for (;;) {
      const page = await readLogPage(this.#db, this.cursor, false);
      if (page.events.length === 0) return this.seen.length - before;
      this.seen.push(...page.events);
      this.cursor = page.through;
    }
  }

  /** Reads without a pause until it is told to stop, then to the end. */
  async pollUntil(stop: AbortSignal): Promise<void> {
    while (!stop.aborted) {
      await this.drain();
      await turn();
    }
    await this.drain();
  }
}

/** Reads only when the doorbell has rung: what it lacks at the end was committed without a notification. */
export class BellReader {
  readonly tail: TailingReader;
  readonly payloads: string[] = [];
  readonly #client: pg.Client;
  #reading: Promise<void> = Promise.resolve();
  #pending = false;

  private constructor(client: pg.Client, db: Queryable) {
    this.#client = client;
    this.tail = new TailingReader(db);
    client.on('notification', ({ payload }) => {
      this.payloads.push(payload ?? '');
      if (this.#pending) return;
      this.#pending = true;
      this.#reading = this.#reading.then(async () => {
        this.#pending = false;
        await this.tail.drain();
      });
    });
  }

  static async listen(db: TestDatabase): Promise<BellReader> {
    const client = await db.connect();
    const reader = new BellReader(client, db.pool);
    await client.query(`listen ${LOG_CHANNEL}`);
    return reader;
  }

  /** Waits until it has been rung as far as this revision. */
  async reach(revision: bigint): Promise<void> {
    await waitFor(() => this.tail.cursor >= revision, `the bell to ring for revision ${revision}`, 5000);
    await this.#reading;
  }

  /** Waits until everything that was notified to this session before now has arrived. */
  async settle(): Promise<void> {
    // Notifications are sent before the answer to a statement that was begun after them.
    await this.#client.query('select 1');
    await this.#reading;
  }
}
