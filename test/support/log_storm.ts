import assert from 'node:assert/strict';
import { setTimeout as pause } from 'node:timers/promises';
import type pg from 'pg';
import type { Queryable } from '../../src/store/pool.js';
import { expireLeases } from '../../src/store/sql/expire_leases.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { updateRuns } from '../../src/store/sql/update_runs.js';
import type { TestDatabase } from './database.js';
import { Oracle } from './log_oracle.js';
import { Prng } from './log_prng.js';
import { BellReader, TailingReader } from './log_reader.js';
import { claim, create, must, report, type Held } from './log_runs.js';
import { assertSameSequence, assertWellFormed, changeOf } from './log_verify.js';
import { within } from './wait.js';

const STATUSES = ['new', 'initializing', 'initialized', 'running', 'success', 'error', 'canceled'];
const SERIALIZATION_FAILURE = '40001';
/** Runs that all writers of plain SQL fight for. */
const HOT_RUNS = 24;

/** What plain SQL may do to a run in one statement; each of them is one event. */
const CHANGES = [
  (random: Prng) => `status = '${random.pick(STATUSES)}'`,
  (random: Prng) => `priority = ${random.between(0, 9)}`,
  (random: Prng) => `progress = ${random.next().toFixed(3)}, status_message = 'at ${random.between(0, 999)}'`,
  (random: Prng) => `output = '{"n": ${random.between(0, 999)}}'`,
];

export interface StormOptions {
  readonly seed: number;
  /** It goes on until so much was done: how long that takes is the machine's affair. */
  readonly least: Counts;
  /** Writers of plain SQL, each with a session of its own. */
  readonly sqlWriters: number;
  /** Writers that use the server's statements. */
  readonly serverWriters: number;
}

export interface StormReport {
  readonly events: number;
  readonly commits: number;
  readonly rollbacks: number;
}

interface Counts {
  readonly transactions: number;
  readonly rollbacks: number;
}
type Counting = { -readonly [Name in keyof Counts]: Counts[Name] };
/** Until then everything is done, or nothing gets on any more. */
const STORM_MS = 60_000;

class SqlWriter {
  readonly #client: pg.Client;
  readonly #random: Prng;
  readonly #hot: readonly string[];
  readonly #own: string[] = [];

  constructor(client: pg.Client, random: Prng, hot: readonly string[]) {
    this.#client = client;
    this.#random = random;
    this.#hot = hot;
  }

  /** One transaction. It waits for a row with its first statement only, so that no writers wait in a circle. */
  async transact(counts: Counting): Promise<void> {
    const level = this.#random.chance(0.2)
      ? this.#random.pick(['repeatable read', 'serializable'])
      : 'read committed';
    await this.#client.query(`begin isolation level ${level}`);
    try {
      await this.#work(counts);
    } catch (error) {
      // Above READ COMMITTED a writer is told to begin anew when another one was quicker.
      if (level === 'read committed' || (error as { code?: unknown }).code !== SERIALIZATION_FAILURE)
        throw error;
      counts.rollbacks += 1;
      await this.#client.query('rollback');
    }
  }

  async #work(counts: Counting): Promise<void> {
    const random = this.#random;
    if (random.chance(0.3)) await this.#update(random.pick(this.#hot));
    for (let left = random.between(1, 6); left > 0; left -= 1) {
      if (random.chance(0.25)) await this.#savepoint();
      else await this.#write();
      if (random.chance(0.3)) await pause(random.between(0, 12));
    }
    // Now and then one that commits long after others which began later.
    if (random.chance(0.03)) await pause(random.between(100, 400));
    const rollback = random.chance(0.15);
    if (rollback) counts.rollbacks += 1;
    await this.#client.query(rollback ? 'rollback' : 'commit');
  }

  async #savepoint(): Promise<void> {
    const random = this.#random;
    await this.#client.query('savepoint s');
    for (let left = random.between(1, 3); left > 0; left -= 1) await this.#write();
    await this.#client.query(random.chance(0.5) ? 'rollback to savepoint s' : 'release savepoint s');
  }

  async #write(): Promise<void> {
    const random = this.#random;
    if (random.chance(0.35)) {
      const result = await this.#client.query<{ id: string }>(
        `insert into baton.runs (status, priority)
         select null, ${random.between(0, 9)} from generate_series(1, ${random.between(1, 3)}) returning id`,
      );
      this.#own.push(...result.rows.map(({ id }) => id));
      return;
    }
    const own = this.#own.slice(-20);
    const ids = random.chance(0.5) || own.length === 0 ? this.#hot : own;
    await this.#client.query(
      `update baton.runs set ${random.pick(CHANGES)(random)} where id in (
         select id from baton.runs where id = any ($1) order by id offset ${random.between(0, 3)}
         limit ${random.between(1, 3)} for update skip locked)`,
      [ids],
    );
    // Several changes of one run in one transaction.
    if (random.chance(0.3) && own.length > 0) await this.#update(must(own.at(-1), 'a run of its own'));
  }

  async #update(id: string): Promise<void> {
    await this.#client.query(
      `update baton.runs set ${this.#random.pick(CHANGES)(this.#random)} where id = $1`,
      [id],
    );
  }
}

/** One round of a server: create, claim, report and end leases, each in a statement that commits by itself. */
async function serve(db: Queryable, random: Prng, held: Held[]): Promise<void> {
  await create(
    db,
    ...Array.from({ length: random.between(1, 8) }, () => ({ priority: random.between(0, 9) })),
  );
  for (const stage of ['initialize', 'run']) held.push(...(await claim(db, stage, random.between(1, 6))));
  await updateRuns(
    db,
    held.splice(0, random.between(0, held.length)).map((item) => {
      const { status } = item.run;
      const done = status === 'initializing' ? 'initialized' : 'success';
      const back = status === 'initializing' ? 'new' : 'initialized';
      const next = random.pick([done, done, done, status, back, 'error', 'canceled']);
      return report(item, next, { retryable: random.chance(0.5), retryDelayMs: 0 });
    }),
  );
  if (random.chance(0.2)) await expireLeases(db, 10);
  if (random.chance(0.3)) await pause(random.between(0, 10));
}

async function write(db: TestDatabase, options: StormOptions, hot: readonly string[]): Promise<Counts> {
  const counts: Counting = { transactions: 0, rollbacks: 0 };
  const { least } = options;
  const deadline = performance.now() + STORM_MS;
  const open = (): boolean => {
    if (counts.transactions >= least.transactions && counts.rollbacks >= least.rollbacks) return false;
    assert.ok(performance.now() < deadline, `only ${JSON.stringify(counts)} in ${STORM_MS} ms`);
    counts.transactions += 1;
    return true;
  };
  const sql = Array.from({ length: options.sqlWriters }, async (_, index) => {
    const writer = new SqlWriter(await db.connect(), new Prng(options.seed * 1000 + index), hot);
    while (open()) await writer.transact(counts);
  });
  const servers = Array.from({ length: options.serverWriters }, async (_, index) => {
    const random = new Prng(options.seed * 1000 + 500 + index);
    const held: Held[] = [];
    while (open()) await serve(db.pool, random, held);
  });
  const ended = await Promise.allSettled([...sql, ...servers]);
  for (const result of ended) if (result.status === 'rejected') throw result.reason;
  return counts;
}

/**
 * Many writers with pauses, rollbacks, savepoints and commits out of order, two readers that tail the log, and a
 * witness that knows the true order of commits. All four have to agree.
 *
 * @throws AssertionError that names the first difference
 */
export async function checkStorm(db: TestDatabase, options: StormOptions): Promise<StormReport> {
  const oracle = await Oracle.open(db);
  try {
    const polling = new TailingReader(db.pool);
    const listening = await BellReader.listen(db);
    const stop = new AbortController();
    const polled = polling.pollUntil(stop.signal);
    let counts: Counts;
    try {
      const hot = await create(db.pool, ...Array.from({ length: HOT_RUNS }, () => ({})));
      counts = await write(
        db,
        options,
        hot.map(({ id }) => id),
      );
    } finally {
      stop.abort();
      await within(polled, 'the polling reader', 30_000);
    }
    const stored = new TailingReader(db.pool);
    await stored.drain();
    const { changes, commits } = await oracle.read();
    assertSameSequence(polling.seen, stored.seen, 'what the polling reader saw against the log');
    assertSameSequence(stored.seen.map(changeOf), changes, 'the log against the order of commits');
    await listening.reach((await readHead(db.pool)).revision);
    assertSameSequence(listening.tail.seen, stored.seen, 'what the listening reader saw against the log');
    assertWellFormed(stored.seen);
    await assertRunsMatch(db.pool, stored.seen.length);
    return { events: stored.seen.length, commits, rollbacks: counts.rollbacks };
  } finally {
    await oracle.close();
  }
}

/** The sum of all versions is the number of events, and the last event of each run shows the run as it is. */
async function assertRunsMatch(db: Queryable, events: number): Promise<void> {
  const [row] = await db.query<{ versions: bigint; stale: bigint }>(
    `select sum(r.version)::bigint as versions,
       count(*) filter (where (e.status, e.state, e.priority, e.progress, e.output, e.worker_id, e.attempt)
         is distinct from (r.status, r.state, r.priority, r.progress, r.output, r.worker_id, r.attempt)) as stale
     from baton.runs r left join baton.run_events e on e.run_id = r.id and e.version = r.version`,
  );
  assert.deepEqual(row, { versions: BigInt(events), stale: 0n }, 'runs against their last events');
}
