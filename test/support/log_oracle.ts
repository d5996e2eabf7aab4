import type { Queryable } from '../../src/store/pool.js';
import type { TestDatabase } from './database.js';
import { within } from './wait.js';

/** One committed version of a run, as the write-ahead log has it. */
export interface Change {
  readonly runId: string;
  readonly version: bigint;
  readonly status: string;
}

export interface CommitOrder {
  /** Transactions in the order in which they committed; within one, in the order of its writes. */
  readonly changes: readonly Change[];
  readonly commits: number;
}

/**
 * The order of commits from a witness that knows nothing of the log's revisions: a logical replication slot decodes
 * the write-ahead log, and only the rows of `baton.runs` are read from it.
 */
export class Oracle {
  readonly #db: Queryable;
  readonly #slot: string;

  private constructor(db: Queryable, slot: string) {
    this.#db = db;
    this.#slot = slot;
  }

  /**
   * Begins to witness. A slot waits for the transactions that are open in the whole cluster, other tests' too, which takes
   * longer than a session of Baton waits for locks.
   */
  static async open(db: TestDatabase): Promise<Oracle> {
    const client = await db.connect();
    const slot = `oracle_${new URL(db.url).pathname.slice(1)}`;
    await within(
      client.query(`select pg_create_logical_replication_slot($1, 'test_decoding')`, [slot]),
      'a replication slot',
      60_000,
    );
    return new Oracle(db.pool, slot);
  }

  /** What has been committed since the last call. */
  async read(): Promise<CommitOrder> {
    const rows = await this.#db.query<{ data: string }>(
      `select data from pg_logical_slot_get_changes($1, null, null, 'skip-empty-xacts', '1')
       where data like 'COMMIT%' or data like 'table baton.runs: %'`,
      [this.#slot],
    );
    const versions = new Map<string, bigint>();
    const changes: Change[] = [];
    let commits = 0;
    for (const { data } of rows) {
      const change = parse(data);
      if (change === undefined) commits += 1;
      // A lease that was only extended is no change of the run and keeps its version.
      else if (versions.get(change.runId) !== change.version) {
        versions.set(change.runId, change.version);
        changes.push(change);
      }
    }
    return { changes, commits };
  }

  /** A database with a slot cannot be dropped. */
  async close(): Promise<void> {
    await this.#db.query('select pg_drop_replication_slot($1)', [this.#slot]);
  }
}

function parse(data: string): Change | undefined {
  if (data.startsWith('COMMIT')) return undefined;
  const runId = /^table baton\.runs: (?:INSERT|UPDATE): id\[uuid\]:'([0-9a-f-]{36})' /.exec(data)?.[1];
  const status = / status\[text\]:'([^']*)' /.exec(data)?.[1];
  const version = / version\[bigint\]:(\d+) /.exec(data)?.[1];
  if (runId === undefined || status === undefined || version === undefined)
    throw new Error(`not a change of a run: ${data.slice(0, 500)}`);
  return { runId, version: BigInt(version), status };
}
