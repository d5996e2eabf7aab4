import type pg from 'pg';
import { systemClock, type Clock, type Timer } from '../../src/base/clock.js';
import { LIMITS } from '../../src/base/limits.js';
import { MATCH_ALL, type RunFilter } from '../../src/run/filter.js';
import type { Queryable, Statement } from '../../src/store/pool.js';
import { readHead } from '../../src/store/sql/read_head.js';
import type { NewWork } from '../../src/store/sql/read_new_work.js';
import { Hub } from '../../src/watch/hub.js';
import type { WatchMessage } from '../../src/watch/message.js';
import type { Subscription } from '../../src/watch/subscription.js';
import { OwnWork } from '../../src/watch/own_work.js';
import { LogTail, readLogPage } from '../../src/watch/tail.js';
import { silent, type TestDatabase } from './database.js';
import { Signal, within } from './wait.js';

/** Real time, but for the poll, which never comes: what is found was found because a bell rang. */
export class DeafClock implements Clock {
  skewMs = 0;
  /** How much sooner timers come than they should. */
  speed = 1;

  now(): number {
    return systemClock.now() + this.skewMs;
  }

  after(delayMs: number, task: () => void): Timer {
    return delayMs === LIMITS.pollIntervalMs
      ? { cancel: () => undefined }
      : systemClock.after(delayMs / this.speed, task);
  }
}

/** A database whose next answer to a certain statement is held back, so that something can happen meanwhile. */
export class GatedDb implements Queryable {
  readonly commits = true;
  readonly #db: Queryable;
  #gate: { readonly pattern: RegExp; readonly reached: Signal; readonly open: Signal } | undefined;

  constructor(db: Queryable) {
    this.#db = db;
  }

  async query<Row extends pg.QueryResultRow>(
    statement: string | Statement,
    values?: unknown[],
  ): Promise<Row[]> {
    const rows = await this.#db.query<Row>(statement, values);
    const gate = this.#gate;
    if (gate?.pattern.test(typeof statement === 'string' ? statement : statement.text) === true) {
      this.#gate = undefined;
      gate.reached.send();
      await gate.open.promise;
    }
    return rows;
  }

  /** Holds the next matching statement; `reached` when its answer is there, until `open` is sent. */
  hold(pattern: RegExp): { readonly reached: Signal; readonly open: Signal } {
    this.#gate = { pattern, reached: new Signal(), open: new Signal() };
    return this.#gate;
  }
}

/** A hub with its tail on a real database, without a service around them. */
export class Rig {
  readonly clock = new DeafClock();
  readonly db: TestDatabase;
  readonly gated: GatedDb;
  readonly hub: Hub;
  readonly tail: LogTail;
  wantsWork = false;
  readonly ownWork = new OwnWork();
  /** What the tail has told waiting workers. */
  readonly work: (readonly NewWork[] | undefined)[] = [];

  constructor(db: TestDatabase) {
    this.db = db;
    this.gated = new GatedDb(db.pool);
    this.hub = new Hub({
      clock: this.clock,
      readPage: (after, payload, epoch) => readLogPage(db.pool, after, payload, epoch),
      onForeign: () => this.tail.checkIdentity(),
      onDemand: () => this.tail.ring(),
      limits: { ageMs: undefined, stallMs: 600_000 },
    });
    this.tail = new LogTail({
      db: this.gated,
      hub: this.hub,
      identity: { check: () => Promise.resolve() },
      clock: this.clock,
      log: silent,
      wantsWork: () => this.wantsWork,
      onWork: (work) => void this.work.push(work),
      ownWork: this.ownWork,
    });
  }

  async open(
    after: bigint,
    options: { filter?: Partial<RunFilter>; payload?: boolean; bookmarkMs?: number } = {},
  ): Promise<Reader> {
    const { epoch } = await readHead(this.db.pool);
    const filter = { ...MATCH_ALL, ...options.filter };
    const { payload = false, bookmarkMs = 3_600_000 } = options;
    return new Reader(this.hub.open(filter, payload, epoch, after, bookmarkMs));
  }

  async insert(count = 1, repository = ''): Promise<void> {
    await this.db.pool.query(
      'insert into baton.runs (repository, input) select $1, $2 from generate_series(1, $3::int)',
      [repository, JSON.stringify({ n: 1 }), count],
    );
  }

  async head(): Promise<bigint> {
    return (await readHead(this.db.pool)).revision;
  }

  /** What the tail would do, by hand: the next page after the hub's position. */
  async publish(payload = false): Promise<void> {
    this.hub.publish(await readLogPage(this.db.pool, this.hub.position ?? 0n, payload));
  }

  async stop(): Promise<void> {
    await this.tail.stop();
  }
}

/** Reads a subscription as a transport would, one message at a time. */
export class Reader {
  readonly subscription: Subscription;
  readonly messages: WatchMessage[] = [];
  #pending: Promise<WatchMessage | undefined> | undefined;

  constructor(subscription: Subscription) {
    this.subscription = subscription;
  }

  get revisions(): bigint[] {
    return this.messages.flatMap((message) => message.events.map((event) => event.revision));
  }

  /** The next message; a pull that was not answered in time stays pending for the next call. */
  async next(what = 'a message'): Promise<WatchMessage | undefined> {
    this.#pending ??= this.subscription.next();
    const message = await within(this.#pending, what, 3000);
    this.#pending = undefined;
    if (message !== undefined) this.messages.push(message);
    return message;
  }

  /** Asks for the next message and leaves the question open. */
  pull(): void {
    this.#pending ??= this.subscription.next();
  }

  async opened(): Promise<this> {
    await this.next('OPENED');
    return this;
  }

  /** Reads on until it waits in vain, having become live. */
  async live(): Promise<this> {
    this.pull();
    while (this.subscription.state !== 'live') {
      const message = await Promise.race([this.#pending, turn()]);
      if (message !== undefined) await this.next();
      this.pull();
    }
    return this;
  }

  async hasEvents(count: number): Promise<void> {
    while (this.revisions.length < count) await this.next(`${count} events, after ${this.revisions.length}`);
  }
}

function turn(): Promise<undefined> {
  return new Promise((resolve) => setTimeout(() => resolve(undefined), 5));
}
