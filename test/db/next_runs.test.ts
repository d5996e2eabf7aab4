/** The low-water mark of claims: what it may not hide, and what it saves; see src/service/next_runs.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '../../src/base/clock.js';
import { NextRuns } from '../../src/service/next_runs.js';
import type { Queryable } from '../../src/store/pool.js';
import { claimRuns, FLOOR_OF_ALL } from '../../src/store/sql/claim_runs.js';
import { describeOnEveryPostgres } from '../support/database.js';
import { buffersVisited } from '../support/log_plan.js';
import { create, fresh, insertBySql } from '../support/log_runs.js';

const KEY = { pipeline: 'ci', stage: 'initialize' };
const slot = (maxRuns: number) => ({ workerId: 'w', leaseMs: 0, maxRuns });

/** Stands still until it is told. */
class HandClock implements Clock {
  ms = 0;
  now(): number {
    return this.ms;
  }
  after(): { cancel(): void } {
    throw new Error('nobody needs a timer here');
  }
}

describeOnEveryPostgres('claims from a mark', (open) => {
  const claim = async (next: NextRuns, db: Queryable, maxRuns = 1): Promise<string[]> => {
    const { claims } = await next.claim(db, KEY, [slot(maxRuns)]);
    return (claims[0] ?? []).map(({ run }) => run.id);
  };

  void test(
    'go by priority, then time, then id, and give each run once',
    fresh(open, async (db) => {
      const next = new NextRuns(new HandClock());
      const made = await create(
        db.pool,
        ...Array.from({ length: 60 }, (_, n) => ({ priority: n % 10, repository: String(n) })),
      );
      const wanted = made
        .toSorted((a, b) => b.priority - a.priority || (a.id < b.id ? -1 : 1))
        .map(({ id }) => id);
      const got: string[] = [];
      for (const maxRuns of [1, 7, 1, 20, 3, 40]) got.push(...(await claim(next, db.pool, maxRuns)));
      assert.deepEqual(got, wanted);
    }),
  );

  void test(
    'find what was committed late at the next sweep',
    fresh(open, async (db) => {
      const clock = new HandClock();
      const next = new NextRuns(clock);
      const client = await db.connect();
      await client.query('begin');
      const late = await insertBySql(client, 'late');
      const others = (await create(db.pool, {}, {}, {}, {})).map(({ id }) => id);
      clock.ms = 10_000;
      assert.deepEqual(await claim(next, db.pool), [others[0]]);
      await client.query('commit');
      clock.ms += 10;
      assert.deepEqual(await claim(next, db.pool), [others[1]], 'from the mark');
      clock.ms += 1000;
      assert.deepEqual(await claim(next, db.pool), [late], 'from the floor');
      // The sweep has left the mark at what it found.
      assert.deepEqual(await claim(next, db.pool), [others[2]]);
    }),
  );

  void test(
    'after a sweep go on from what it found',
    fresh(open, async (db) => {
      const clock = new HandClock();
      const next = new NextRuns(clock);
      const client = await db.connect();
      await client.query('begin');
      const late = [await insertBySql(client, 'a'), await insertBySql(client, 'b')].toSorted();
      const others = (await create(db.pool, {}, {}, {})).map(({ id }) => id);
      assert.deepEqual(await claim(next, db.pool), [others[0]]);
      await client.query('commit');
      clock.ms += 1000;
      const got = [...(await claim(next, db.pool)), ...(await claim(next, db.pool))];
      assert.deepEqual(got.toSorted(), late);
    }),
  );

  void test(
    'find what was locked when they passed, and what another priority was given',
    fresh(open, async (db) => {
      const clock = new HandClock();
      const next = new NextRuns(clock);
      const [locked, raised, third, fourth] = (await create(db.pool, {}, {}, {}, {})).map(({ id }) => id);
      const client = await db.connect();
      await client.query('begin');
      await client.query('select from baton.runs where id = any ($1) for update', [[locked, raised]]);
      assert.deepEqual(await claim(next, db.pool), [third]);
      await client.query('rollback');
      await db.pool.query('update baton.runs set priority = 3 where id = $1', [raised]);
      assert.deepEqual(await claim(next, db.pool), [raised], 'no mark in this priority yet');
      assert.deepEqual(await claim(next, db.pool), [fourth]);
      assert.deepEqual(await claim(next, db.pool), [], 'from the mark');
      clock.ms += 20;
      assert.deepEqual(await claim(next, db.pool), [locked], 'from the floor');
    }),
  );

  void test(
    'that were rolled back are forgotten',
    fresh(open, async (db) => {
      const next = new NextRuns(new HandClock());
      const ids = (await create(db.pool, {}, {})).map(({ id }) => id);
      await assert.rejects(
        db.pool.transaction(async (tx) => {
          assert.deepEqual(await claim(next, tx), [ids[0]]);
          throw new Error('rolled back');
        }),
        /rolled back/,
      );
      next.forget(KEY);
      assert.deepEqual(await claim(next, db.pool, 2), ids);
    }),
  );

  void test(
    'cost the same over rows that VACUUM may not remove',
    fresh(open, async (db) => {
      const clock = new HandClock();
      const next = new NextRuns(clock);
      // Pins the horizon, unlike a READ COMMITTED transaction.
      const client = await db.connect();
      await client.query('begin isolation level repeatable read');
      await client.query('select');
      const cost = (marked: boolean): Promise<number> =>
        buffersVisited(db.pool, (tx) =>
          marked ? next.claim(tx, KEY, [slot(1)]) : claimRuns(tx, { ...KEY, slots: [slot(1)] }, FLOOR_OF_ALL),
        );
      for (let n = 0; n < 50; n += 1) {
        await create(db.pool, ...Array.from({ length: 101 }, () => ({})));
        assert.equal((await claim(next, db.pool, 100)).length, 100);
        clock.ms += 1;
      }
      await db.pool.query('vacuum baton.runs');
      // A session reads the catalog for what it does for the first time.
      await cost(true);
      const [marked, floor] = [await cost(true), await cost(false)];
      assert.ok(marked * 3 < floor, `${marked} pages from the mark, ${floor} from the floor`);
    }),
  );
});
