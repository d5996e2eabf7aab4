/**
 * The revision log: what is committed is an event, once, in the order of commits, whoever wrote it. The checks are in
 * test/support/log_*.ts, because the mutants of test/mutants/log.ts run the same ones on a log that was broken.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { EventType } from '../../src/run/run.js';
import { EVENT_TYPES } from '../../src/run/run.js';
import type { Queryable } from '../../src/store/pool.js';
import { expireLeases } from '../../src/store/sql/expire_leases.js';
import { releaseClaims } from '../../src/store/sql/release_claims.js';
import { LOG_MUTANTS } from '../mutants/log.js';
import { describeOnEveryPostgres } from '../support/database.js';
import {
  checkCommitOrder,
  checkCommitOrderOfStatements,
  checkDoorbell,
  checkIdleWriterHidesNothing,
  checkPlainSqlIsWatched,
} from '../support/log_checks.js';
import { TailingReader } from '../support/log_reader.js';
import { claimOne, create, endLease, fresh, must, update } from '../support/log_runs.js';
import { checkStorm, type StormOptions } from '../support/log_storm.js';
import { SEED, seeded } from '../support/seed.js';

/** A storm with less traffic than this proves nothing. */
const FLOOR = { transactions: 800, rollbacks: 50 };
const STORM: StormOptions = { seed: SEED, least: FLOOR, sqlWriters: 12, serverWriters: 4 };

const STORMS_MAX = 5;

const sql = (text: string) => async (db: Queryable) => void (await db.query(text));
const move = (status: string, more = '') => sql(`update baton.runs set status = '${status}' ${more}`);

/** For each type of event the ways to it; the last step makes the event. */
const WAYS: readonly (readonly [EventType, string, ...((db: Queryable) => Promise<unknown>)[]])[] = [
  ['CREATED', 'a run of the service', (db) => create(db, {})],
  ['CREATED', 'a row that begins in the middle', sql(`insert into baton.runs (status) values ('running')`)],
  ['CLAIMED', 'a claim', (db) => create(db, {}), (db) => claimOne(db)],
  ['CLAIMED', 'plain SQL', (db) => create(db, {}), move('initializing')],
  ['UPDATED', 'another priority', (db) => create(db, {}), sql('update baton.runs set priority = 1')],
  [
    'UPDATED',
    'progress of a worker',
    (db) => create(db, {}),
    async (db) => update(db, await claimOne(db), 'initializing', { progress: 0.5 }),
  ],
  ['UPDATED', 'a skipped stage', (db) => create(db, {}), move('initialized')],
  ['STAGE_COMPLETED', 'a report', (db) => create(db, {}), (db) => finish(db, 'initialized')],
  ['STAGE_COMPLETED', 'plain SQL', (db) => create(db, {}), move('initializing'), move('initialized')],
  [
    'SUCCEEDED',
    'the last stage',
    (db) => create(db, {}),
    move('initialized'),
    async (db) => update(db, await claimOne(db, 'run'), 'success'),
  ],
  ['SUCCEEDED', 'plain SQL', (db) => create(db, {}), move('success')],
  ['FAILED', 'a report', (db) => create(db, {}), (db) => finish(db, 'error')],
  ['FAILED', 'the end of the last lease', (db) => create(db, { maxAttempts: 1 }), (db) => loseLease(db)],
  ['CANCELED', 'a report', (db) => create(db, {}), (db) => finish(db, 'canceled')],
  ['CANCELED', 'a waiting run', (db) => create(db, {}), move('canceled')],
  [
    'CANCELED',
    'the end of a lease after a request',
    (db) => create(db, {}),
    (db) => loseLease(db, 'update baton.runs set cancel_requested = true'),
  ],
  [
    'CANCEL_REQUESTED',
    'a run in hand',
    (db) => create(db, {}),
    move('initializing'),
    sql('update baton.runs set cancel_requested = true'),
  ],
  ['RELEASED', 'a worker that hands back', (db) => create(db, {}), (db) => finish(db, 'new')],
  [
    'RELEASED',
    'a claim that reached nobody',
    (db) => create(db, {}),
    async (db) => {
      const { run, lease } = await claimOne(db);
      assert.equal(await releaseClaims(db, [{ runId: run.id, lease }]), 1);
    },
  ],
  [
    'RETRY_SCHEDULED',
    'an error that may be retried',
    (db) => create(db, {}),
    async (db) => update(db, await claimOne(db), 'error', { retryable: true, errorCode: 'FLAKY' }),
  ],
  ['LEASE_EXPIRED', 'the end of a lease', (db) => create(db, {}), (db) => loseLease(db)],
  ['RETRIED', 'a failed run', (db) => create(db, {}), move('error'), move('new')],
  [
    'RETRIED',
    'a canceled run, at its second stage',
    (db) => create(db, {}),
    move('canceled'),
    move('initialized'),
  ],
];

async function finish(db: Queryable, status: string): Promise<void> {
  assert.ok(await update(db, await claimOne(db), status));
}

async function loseLease(db: Queryable, meanwhile?: string): Promise<void> {
  const { run } = await claimOne(db);
  if (meanwhile !== undefined) await db.query(meanwhile);
  await endLease(db, run.id);
  assert.equal(await expireLeases(db, 10), 1);
}

describeOnEveryPostgres('the log', (open) => {
  void test(
    '16 writers lose and reorder nothing',
    fresh(open, async (db) => {
      const report = await seeded(() => checkStorm(db, STORM));
      console.log(`PostgreSQL ${db.version}, seed ${SEED}: ${JSON.stringify(report)}`);
    }),
  );

  void test('a commit cannot be overtaken between its revision and its end', fresh(open, checkCommitOrder));

  void test(
    'nor can that of a statement of the server, which appends its events by itself',
    fresh(open, checkCommitOrderOfStatements),
  );

  void test(
    'a transaction that wrote runs and idles blocks nobody and is seen at its commit',
    fresh(open, checkIdleWriterHidesNothing),
  );

  void test('INSERT and UPDATE by plain SQL are events', fresh(open, checkPlainSqlIsWatched));

  void test('a transaction rings the doorbell once', fresh(open, checkDoorbell));

  void test(
    'a prepared transaction is refused, because it would hold the log for as long as it likes',
    fresh(open, async (db) => {
      const client = await db.connect();
      await client.query('begin');
      await client.query('insert into baton.runs default values');
      await assert.rejects(client.query(`prepare transaction 'p'`), /cannot PREPARE/);
      await create(db.pool, {});
      const reader = new TailingReader(db.pool);
      assert.equal(await reader.drain(), 1);
    }),
  );

  void test(
    'an error at commit leaves neither an event nor the lock behind',
    fresh(open, async (db) => {
      const client = await db.connect();
      await client.query(
        `create table late (id int primary key, other int references late (id) deferrable initially deferred)`,
      );
      await client.query('begin');
      await client.query('insert into baton.runs default values');
      await client.query('insert into late values (1, 2)');
      await assert.rejects(client.query('commit'), /foreign key/);
      const [run] = await create(db.pool, {});
      const reader = new TailingReader(db.pool);
      await reader.drain();
      assert.deepEqual(
        reader.seen.map((event) => event.run.id),
        [must(run, 'a run').id],
      );
    }),
  );

  void describe('types of events', () => {
    for (const [type, way, ...steps] of WAYS) {
      void test(
        `${type}: ${way}`,
        fresh(open, async (db) => {
          const last = must(steps.at(-1), 'a step');
          for (const step of steps.slice(0, -1)) await step(db.pool);
          await last(db.pool);
          const reader = new TailingReader(db.pool);
          await reader.drain();
          assert.equal(reader.seen.at(-1)?.type, type);
        }),
      );
    }

    void test('every type has a way to it', () => {
      assert.deepEqual([...new Set(WAYS.map(([type]) => type))].sort(), [...EVENT_TYPES].sort());
    });

    void test(
      'a run that plain SQL hands back is no ended lease, although an earlier one ended',
      fresh(open, async (db) => {
        await create(db.pool, {});
        await loseLease(db.pool);
        await move('initializing')(db.pool);
        await move('new')(db.pool);
        const reader = new TailingReader(db.pool);
        await reader.drain();
        assert.equal(reader.seen.at(-1)?.type, 'RETRY_SCHEDULED');
      }),
    );
  });

  void describe('mutants', () => {
    for (const mutant of LOG_MUTANTS) {
      void test(
        `${mutant.name} is caught: ${mutant.breaks}`,
        fresh(open, async (db) => {
          await mutant.apply(db.pool);
          // A difference or a wait that was too long; any other error would say that the mutant itself is broken.
          await assert.rejects(
            mutant.caughtBy(db),
            (error: Error) => error instanceof assert.AssertionError || error.message.startsWith('waited '),
          );
        }),
      );
    }

    void test('no_lock is caught by chance too: the storm is strong enough', async (t) => {
      // Nearly always the first time. By how much it would not is a matter of the machine.
      for (let storm = 0; storm < STORMS_MAX; storm += 1) {
        let caught = false;
        await fresh(open, async (db) => {
          await must(LOG_MUTANTS[0], 'no_lock').apply(db.pool);
          const seed = SEED + storm;
          await checkStorm(db, { ...STORM, seed, least: { transactions: 500, rollbacks: 1 } }).catch(
            (error: unknown) => {
              if (!(error instanceof assert.AssertionError)) throw error;
              caught = true;
            },
          );
        })(t);
        if (caught) return;
      }
      assert.fail(`${STORMS_MAX} storms saw nothing`);
    });
  });
});
