import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatonError } from '../src/base/errors.js';
import { describeOnEveryPostgres } from './support/database.js';
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
