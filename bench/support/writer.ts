import pg from 'pg';

/** How many inserts may be under way: enough that a slow commit does not lower the rate. */
const CONNECTIONS = 8;
const TICK_MS = 2;

const INSERT = `insert into baton.runs (repository, labels) values ('github.com/acme/shop', '{"team": "a"}')`;

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
   * their number.
   *
   * @returns the last revision of the log after it
   */
  async write(rate: number, seconds: number): Promise<number> {
    const total = rate * seconds;
    const started = performance.now();
    const pending: Promise<unknown>[] = [];
    while (pending.length < total) {
      const due = Math.min(total, Math.floor(((performance.now() - started) / 1000) * rate));
      while (pending.length < due) pending.push(this.#insert(pending.length % CONNECTIONS));
      await new Promise((resolve) => setTimeout(resolve, TICK_MS));
    }
    await Promise.all(pending);
    return Number(await this.#value('select coalesce(max(revision), 0) as value from baton.run_events'));
  }

  /** One after the other on each connection. */
  #insert(index: number): Promise<unknown> {
    const insert = (): Promise<unknown> => this.#clients[index]!.query({ name: 'insert', text: INSERT });
    const done = (this.#busy[index] ?? Promise.resolve()).then(insert);
    this.#busy[index] = done;
    return done;
  }

  async #value(sql: string): Promise<string> {
    const { rows } = await this.#clients[0]!.query<{ value: string }>(sql);
    return rows[0]?.value ?? '';
  }

  async close(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.end()));
  }
}
