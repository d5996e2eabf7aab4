import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { BatonError } from '../../src/base/errors.js';
import { createPool, type Pool } from '../../src/store/pool.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import {
  describeOnEveryPostgres,
  describeOnEveryPostgresAtOnce,
  silent,
  type Open,
  type TestDatabase,
} from '../support/database.js';
import { startFalseProcessIds } from '../support/false_process_ids.js';
import { create, fresh, waitingForLock } from '../support/log_runs.js';
import { startTestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const isAway = (error: unknown): boolean =>
  error instanceof BatonError && error.reason === 'DATABASE_UNAVAILABLE';

describeOnEveryPostgres('a transaction', (open) => {
  void test(
    'that stands still is ended by the database, which frees what it had locked',
    fresh(open, async (db) => {
      const [run] = await create(db.pool, {});
      assert.ok(run);
      const lock = 'select from baton.runs where id = $1 for update';
      const client = await db.connect();
      const stood = db.pool.transaction(async (tx) => {
        await tx.query(lock, [run.id]);
        const other = client.query(lock, [run.id]);
        await waitFor(async () => (await waitingForLock(db.pool)).length > 0, 'another to wait');
        // As long as this process does nothing, so does its transaction.
        await within(other, 'the lock to be freed', 9000);
        return tx.query('select 1');
      });
      await assert.rejects(stood, isAway);
      assert.equal((await db.pool.query('select 1')).length, 1);
    }),
  );
});

describeOnEveryPostgres('a pool', (open) => {
  void test(
    'says so when none of its connections came free in time',
    fresh(open, async (db) => {
      const pool = createPool({ databaseUrl: db.url, connections: 1, log: silent });
      try {
        const slow = pool.query('select pg_sleep(6)');
        await assert.rejects(
          pool.query('select 1'),
          (error) => isAway(error) && /no connection .* came free in time/.test(String(error)),
        );
        await slow;
      } finally {
        await pool.close();
      }
    }),
  );

  void test(
    'of the calls of a server has all its connections before anybody needs one',
    fresh(open, async (db) => {
      const baton = await startTestServer(db.url, { poolConnections: 4 });
      const areOpen = async (): Promise<boolean> => {
        const metrics = await (await fetch(`${baton.httpUrl}/metrics`)).text();
        return metrics.includes('baton_pool_connections{pool="calls",state="idle"} 4\n');
      };
      try {
        await waitFor(areOpen, 'four connections');
      } finally {
        await baton.stop();
      }
    }),
  );

  void test(
    'is closed while all its connections are opened',
    fresh(open, async (db) => {
      const pool = createPool({ databaseUrl: db.url, connections: 4, log: silent });
      // One is there, so another is waited for rather than made at once.
      await pool.query('select 1');
      const filled = pool.fill();
      // After 5 s, whoever waits for a connection gives up.
      await within(pool.close(), 'the pool to be closed', 4000, 4000);
      await within(filled, 'the end of it');
      await pool.fill();
    }),
  );

  void test('is closed when its connections are gone, those that have gone silent among them', async () => {
    const database = await open();
    const { proxy, url } = await FaultProxy.before(database.url);
    const pool = createPool({ databaseUrl: url, connections: 3, log: silent });
    try {
      const keeping = { name: 'sleep', text: 'select pg_sleep(0.1)' };
      await Promise.all([keeping.text, keeping.text, keeping].map((statement) => pool.query(statement)));
      assert.equal(proxy.connections, 3);
      // Nobody will answer their goodbyes.
      proxy.mode = 'half-open';
      let isClosed = false;
      const closed = pool.close().then(() => (isClosed = true));
      await waitFor(() => proxy.lostBytes > 0, 'a goodbye to be lost');
      assert.equal(isClosed, false);
      pool.abort();
      await within(closed, 'the pool to be closed');
    } finally {
      pool.abort();
      await proxy.close();
      await database.drop();
    }
  });
});

/** Works with a pool whose connections go through a network that can break. */
async function throughProxy(
  open: () => Promise<TestDatabase>,
  body: (pool: Pool, proxy: FaultProxy) => Promise<void>,
): Promise<void> {
  const database = await open();
  const { proxy, url } = await FaultProxy.before(database.url);
  const pool = createPool({ databaseUrl: url, connections: 8, log: silent });
  try {
    await body(pool, proxy);
  } finally {
    pool.abort();
    await pool.close();
    await proxy.close();
    await database.drop();
  }
}

describeOnEveryPostgresAtOnce('a connection', (open) => {
  void describe('of a pool', { concurrency: true }, () => connectionTests(open));
});

function connectionTests(open: Open): void {
  for (const mode of ['half-open', 'drop-to-client', 'drop-to-server'] as const) {
    void test(`that was lost without a word (${mode}) fails its statement within seconds`, () =>
      throughProxy(open, async (pool, proxy) => {
        const kept = { name: 'one', text: 'select 1 as one' };
        const all = (): Promise<unknown>[] => [
          pool.query(kept),
          pool.query('select 1'),
          pool.transaction((tx) => tx.query('select 1')),
        ];
        await Promise.all(all());
        proxy.mode = mode;
        const lost = all();
        const outcomes = Promise.allSettled(lost);
        await waitFor(() => proxy.lostBytes > 0, 'bytes to be lost');
        // Nothing is known as long as nobody answers.
        await pause(1500);
        proxy.mode = 'pass';
        // Alone it would be 30 s.
        const settled = await within(outcomes, 'the lost statements to fail', 10_000, 28_000);
        assert.deepEqual(
          settled.map((outcome) => outcome.status === 'rejected' && isAway(outcome.reason)),
          [true, true, true],
        );
        assert.deepEqual(await pool.query(kept), [{ one: 1 }]);
      }));
  }

  void test('that was lost while it was made is given up before its timeout', () =>
    throughProxy(open, async (pool, proxy) => {
      // A machine that stands still for seconds may reach the timeout, which is 5 s, once or twice.
      const causes: string[] = [];
      while (causes.length < 3 && causes.every((cause) => cause.includes('timeout'))) {
        const before = proxy.lostBytes;
        proxy.mode = 'half-open';
        const outcome = Promise.allSettled([pool.query('select 1')]);
        await waitFor(() => proxy.lostBytes > before, 'the first bytes to be lost');
        proxy.mode = 'pass';
        const [lost] = await within(outcome, 'the statement to fail', 10_000);
        assert.ok(lost.status === 'rejected' && isAway(lost.reason));
        causes.push(String((lost.reason as BatonError).cause));
      }
      assert.doesNotMatch(causes.at(-1) ?? '', /timeout/);
      assert.deepEqual(await pool.query('select 1 as one'), [{ one: 1 }]);
    }));

  void test('that nobody uses is not trusted any more when another one was lost', () =>
    throughProxy(open, async (pool, proxy) => {
      const processes = async (count: number): Promise<ReadonlySet<unknown>> => {
        const rows = await Promise.all(
          Array.from({ length: count }, () => pool.query('select pg_backend_pid() as pid, pg_sleep(0.1)')),
        );
        return new Set(rows.map(([row]) => row?.['pid']));
      };
      const before = await processes(4);
      assert.equal(before.size, 4);
      proxy.mode = 'half-open';
      const lost = assert.rejects(pool.query('select 1'), isAway);
      await waitFor(() => proxy.lostBytes > 0, 'bytes to be lost');
      proxy.mode = 'pass';
      await within(lost, 'the lost statement to fail', 10_000, 28_000);
      const after = await processes(4);
      assert.deepEqual(
        [...after].filter((pid) => before.has(pid)),
        [],
      );
    }));

  void test('whose statement is slow, or waits for a lock, is left alone', () =>
    throughProxy(open, async (pool) => {
      const [run] = await create(pool, {});
      const lock = 'select 1 as one from baton.runs where id = $1 for update';
      const [slow, locked] = await pool.transaction(async (tx) => {
        await tx.query(lock, [run?.id]);
        const waiting = pool.query(lock, [run?.id]);
        await waitFor(async () => (await waitingForLock(pool)).length > 0, 'another to wait');
        return [await tx.query('select 1 as one, pg_sleep(2)'), waiting];
      });
      assert.deepEqual([slow[0]?.['one'], await locked], [1, [{ one: 1 }]]);
    }));

  void test('through a pooler is left alone while its statement is slow, since its process is not known', async () => {
    const database = await open();
    const pooler = await startFalseProcessIds(database.url);
    const pool = createPool({ databaseUrl: pooler.url, connections: 2, log: silent });
    try {
      const [row] = await pool.query('select 1 as one, pg_backend_pid() as pid, pg_sleep(2)');
      assert.equal(row?.['one'], 1);
      assert.equal(pool.owns(row['pid'] as number), false);
    } finally {
      await pool.close();
      await pooler.close();
      await database.drop();
    }
  });
}

describeOnEveryPostgres('a snapshot', (open) => {
  void test(
    'that has ended reads nothing more on a connection that is no longer its own',
    fresh(open, async (db) => {
      const snapshot = await db.pool.snapshot();
      assert.equal((await snapshot.query('select 1')).length, 1);
      await snapshot.end();
      await assert.rejects(snapshot.query('select 1'), /the snapshot has ended/);
    }),
  );
});
