import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatonError } from '../src/base/errors.js';
import { createPool } from '../src/store/pool.js';
import { FaultProxy } from './support/chaos_proxy.js';
import { describeOnEveryPostgres, silent } from './support/database.js';
import { create, fresh, waitingForLock } from './support/log_runs.js';
import { waitFor, within } from './support/wait.js';

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
      await assert.rejects(
        stood,
        (error) => error instanceof BatonError && error.reason === 'DATABASE_UNAVAILABLE',
      );
      assert.equal((await db.pool.query('select 1')).length, 1);
    }),
  );
});

describeOnEveryPostgres('a pool', (open) => {
  void test('is closed when its connections are gone, those that have gone silent among them', async () => {
    const database = await open();
    const url = new URL(database.url);
    const proxy = await FaultProxy.start({ host: '127.0.0.1', port: Number(url.port) });
    url.port = String(proxy.port);
    const pool = createPool({ databaseUrl: url.toString(), connections: 3, log: silent });
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
