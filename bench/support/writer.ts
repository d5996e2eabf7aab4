import pg from 'pg';
import type { Change } from './delivery.js';
import type { Made } from './tally.js';
import { wallClockMs } from './wall_clock.js';

/** How many inserts may be under way: enough that a slow commit does not lower the rate. */
const CONNECTIONS = 8;
const TICK_MS = 2;

const INSERT = `insert into baton.runs (repository, labels) values ('github.com/acme/shop', '{"team": "a"}')`;

const INSERT_MANY = `insert into baton.runs (repository, labels)
select 'github.com/acme/shop', '{"team": "a"}' from`;

/** Inserts runs at a steady rate, each in a transaction of its own, as a plain SQL writer does. */
export class Writer {
  readonly #clients: readonly pg.Client[];
  readonly #busy: Promise<unknown>[] = [];

  private constructor(clients: readonly pg.Client[]) {
    this.#clients = clients;
  }

  static async connect(connectionString: string): Promise<Writer> {
    const clients = Array.from({ length: CONNECTIONS }, () => new pg.Client({ connectionString }));
    await Promise.all(clients.map((client) => client.connect()));
    return new Writer(clients);
  }

  /**
   * What cannot be committed in time queues at the connections, so a slow database lowers the rate of commits and not
   * their number. A change counts from `append_time`, which is taken under the log's lock just before the commit.
   */
  async write(rate: number, seconds: number): Promise<Change> {
    const total = Math.ceil(rate * seconds);
    const head = await this.#head();
    const fromMs = wallClockMs();
    const pending: Promise<number>[] = [];
    while (pending.length < total) {
      const due = Math.min(total, Math.floor(((wallClockMs() - fromMs) / 1000) * rate));
      while (pending.length < due) pending.push(this.#insert(pending.length % CONNECTIONS));
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
    const commitsMs = await Promise.all(pending);
    return { made: await this.#madeAfter(head), fromMs, commitsMs };
  }

  /** In one transaction. Its changes count from just before the commit, when the log has them and nobody sees them. */
  async burst(changes: number): Promise<Change> {
    const head = await this.#head();
    const [client] = this.#clients;
    await client!.query('begin');
    await client!.query(`${INSERT_MANY} generate_series(1, ${changes})`);
    await client!.query('set constraints all immediate');
    const fromMs = wallClockMs();
    await client!.query('commit');
    const made = await this.#madeAfter(head);
    return { made: made.map(({ revision }) => ({ revision, atMs: fromMs })), fromMs };
  }

  /** One after the other on each connection. @returns how long it took, in milliseconds */
  #insert(index: number): Promise<number> {
    const insert = async (): Promise<number> => {
      const before = performance.now();
      await this.#clients[index]!.query({ name: 'insert', text: INSERT });
      return performance.now() - before;
    };
    const done = (this.#busy[index] ?? Promise.resolve()).then(insert);
    this.#busy[index] = done;
    return done;
  }

  async #head(): Promise<number> {
    const { rows } = await this.#clients[0]!.query<{ head: number }>(
      'select coalesce(max(revision), 0)::float8 as head from baton.run_events',
    );
    return rows[0]?.head ?? Number.NaN;
  }

  async #madeAfter(revision: number): Promise<Made[]> {
    const { rows } = await this.#clients[0]!.query<Made>(
      `select revision::float8, (extract(epoch from append_time) * 1000)::float8 as "atMs"
       from baton.run_events where revision > $1::bigint order by 1`,
      [revision],
    );
    return rows;
  }

  async close(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.end()));
  }
}
