/** The statements about schedules on a real PostgreSQL: what each takes, leaves alone and looks at. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatonError } from '../../src/base/errors.js';
import { putPipeline } from '../../src/service/pipelines.js';
import type { Queryable } from '../../src/store/pool.js';
import { boundTransaction } from '../../src/store/sql/bound_transaction.js';
import { createScheduledRuns, type Tick } from '../../src/store/sql/create_scheduled_runs.js';
import { isScheduleDue } from '../../src/store/sql/is_schedule_due.js';
import { lockDuePipelines } from '../../src/store/sql/lock_due_pipelines.js';
import { lockDueSchedules } from '../../src/store/sql/lock_due_schedules.js';
import { moveSchedules } from '../../src/store/sql/move_schedules.js';
import { putSchedules } from '../../src/store/sql/put_schedules.js';
import { readScheduleTimes } from '../../src/store/sql/read_schedule_times.js';
import { setAsideSchedules } from '../../src/store/sql/set_aside_schedules.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { rowsVisited } from '../support/log_plan.js';
import { create, fresh, must, waitingForLock } from '../support/log_runs.js';
import { makeDue, nextTimeOf, pipelineWith, schedule, ticksOf } from '../support/schedules_rig.js';
import { waitFor, within } from '../support/wait.js';

const RARELY = '0 0 1 1 *';

async function put(db: TestDatabase, ...names: string[]): Promise<void> {
  await putPipeline(db.pool, pipelineWith('web', ...names.map((name) => schedule(name, { cron: RARELY }))));
}

const lockedNames = (db: TestDatabase, limit = 10): Promise<string[]> =>
  db.pool.transaction(async (tx) => (await lockDueSchedules(tx, limit)).map(({ name }) => name));

const tick = (name: string, time: Date, requestId: string): Tick => ({
  ...{ pipeline: 'web', name, time, requestId },
});

describeOnEveryPostgres('statements about schedules', (open) => {
  void test(
    'isScheduleDue and lockDueSchedules: what is due by the database, the longest due first, nothing in hand elsewhere',
    fresh(open, async (db) => {
      await put(db, 'a', 'b', 'c', 'later');
      assert.equal(await isScheduleDue(db.pool), false);
      assert.deepEqual(await lockedNames(db), []);
      await makeDue(db.pool, 'a', 2000);
      const due = await makeDue(db.pool, 'b', 9000);
      await makeDue(db.pool, 'c', 5000);
      assert.equal(await isScheduleDue(db.pool), true);
      await db.pool.transaction(async (tx) => {
        const [first, ...rest] = await lockDueSchedules(tx, 1);
        assert.deepEqual(rest, []);
        const { now, ...what } = must(first, 'a schedule');
        assert.deepEqual(what, {
          pipeline: 'web',
          name: 'b',
          cron: RARELY,
          timeZone: 'UTC',
          nextTime: due,
        });
        assert.ok(now >= due);
        assert.deepEqual(await lockedNames(db), ['c', 'a']);
      });
    }),
  );

  void test(
    'lockDueSchedules: the pipeline cannot be redefined meanwhile, but paused',
    fresh(open, async (db) => {
      await put(db, 'a');
      await makeDue(db.pool, 'a', 1000);
      await db.pool.transaction(async (tx) => {
        await lockDueSchedules(tx, 1);
        await db.pool.query(`update baton.pipelines set paused = true where name = 'web'`);
        await assert.rejects(
          db.pool.query(`select from baton.pipelines where name = 'web' for update nowait`),
          /could not obtain lock|cannot be reached/,
        );
      });
    }),
  );

  void test(
    'boundTransaction: what is left alone ends by itself, and is told as a lost database',
    fresh(open, async (db) => {
      await put(db, 'a');
      await makeDue(db.pool, 'a', 1000);
      const left = db.pool.transaction(async (tx) => {
        await boundTransaction(tx, { idleMs: 100, lockMs: 5000 });
        await lockDueSchedules(tx, 1);
        await waitFor(async () => (await lockedNames(db)).length === 1, 'the schedule to be free again');
        await tx.query('select 1');
      });
      await assert.rejects(left, (error) => {
        assert.ok(error instanceof BatonError && error.reason === 'DATABASE_UNAVAILABLE');
        return true;
      });
      await db.pool.transaction(async (tx) => {
        const [row] = await tx.query(
          `select current_setting('idle_in_transaction_session_timeout') as bound`,
        );
        assert.deepEqual(row, { bound: '5s' }, 'it holds for its transaction only');
      });
    }),
  );

  void test(
    'lockDuePipelines: waits for a definition and sees what it has changed',
    fresh(open, async (db) => {
      await put(db, 'a');
      await makeDue(db.pool, 'a', 1000);
      assert.deepEqual(await db.pool.transaction((tx) => lockDuePipelines(tx, 10)), ['web']);
      const definition = await db.connect();
      await definition.query('begin');
      await definition.query(`select from baton.pipelines where name = 'web' for update`);
      await definition.query(`update baton.schedules set name = 'b'`);
      const patient = db.pool.transaction(async (tx) => {
        await lockDuePipelines(tx, 10);
        return lockDueSchedules(tx, 10);
      });
      await waitFor(async () => (await waitingForLock(db.pool)).length === 1, 'the tick to wait');
      await definition.query('commit');
      assert.deepEqual(
        (await within(patient, 'the schedules')).map(({ name }) => name),
        ['b'],
      );
    }),
  );

  void test(
    'createScheduledRuns: one run for each request id, and none where one is there',
    fresh(open, async (db) => {
      await put(db, 'a', 'b');
      const time = new Date('2026-01-01T00:00:00Z');
      await create(db.pool, { requestId: 'taken' });
      const made = await createScheduledRuns(db.pool, [
        tick('a', time, 'one'),
        tick('a', time, 'taken'),
        tick('b', time, 'two'),
        tick('gone', time, 'three'),
      ]);
      assert.equal(made, 2);
      const [run] = await ticksOf(db.pool, 'a');
      assert.deepEqual([run?.request_id, run?.schedule_time], ['one', time]);
    }),
  );

  void test(
    'moveSchedules and setAsideSchedules: the next tick, or a later look at the same one',
    fresh(open, async (db) => {
      await put(db, 'a', 'b');
      const [due, nextTime] = [await makeDue(db.pool, 'a', 1000), new Date('2100-01-01T00:00:00Z')];
      await setAsideSchedules(db.pool, [{ pipeline: 'web', name: 'a' }], 60_000);
      assert.deepEqual(await nextTimeOf(db.pool, 'a'), due);
      assert.equal(await isScheduleDue(db.pool), false);
      await moveSchedules(db.pool, [{ pipeline: 'web', name: 'a', nextTime }]);
      await setAsideSchedules(db.pool, [{ pipeline: 'web', name: 'a' }], 60_000);
      const { schedules } = await readScheduleTimes(db.pool, 'web');
      assert.deepEqual(schedules.get('a'), { cron: RARELY, timeZone: 'UTC', nextTime, dueTime: nextTime });
      assert.notDeepEqual(schedules.get('b')?.nextTime, nextTime);
    }),
  );

  void test(
    'readScheduleTimes and putSchedules: all of one pipeline and nothing of another, and the time in any case',
    fresh(open, async (db) => {
      await put(db, 'a', 'b');
      const empty = await readScheduleTimes(db.pool, 'ci');
      assert.equal(empty.schedules.size, 0);
      assert.ok(Math.abs(empty.now.getTime() - Date.now()) < 60_000);
      const [nextTime, dueTime] = [new Date('2100-01-01T00:00:00Z'), new Date('2100-01-02T00:00:00Z')];
      await putSchedules(db.pool, 'ci', [{ ...schedule('c'), nextTime, dueTime }]);
      const { schedules } = await readScheduleTimes(db.pool, 'ci');
      assert.deepEqual([...schedules], [['c', { cron: '* * * * * *', timeZone: 'UTC', nextTime, dueTime }]]);
      await putSchedules(db.pool, 'ci', []);
      assert.equal((await readScheduleTimes(db.pool, 'ci')).schedules.size, 0);
      assert.deepEqual([...(await readScheduleTimes(db.pool, 'web')).schedules.keys()].sort(), ['a', 'b']);
    }),
  );

  void test(
    'a look at what is due does not grow with the schedules that are not',
    fresh(open, async (db) => {
      await put(db, 'due');
      await db.pool.query(
        `insert into baton.schedules (pipeline, position, name, cron, time_zone, next_time, due_time)
         select 'web', g, 'n' || g, $1, 'UTC', now() + interval '1 day', now() + interval '1 day'
         from generate_series(1, 2000) g`,
        [RARELY],
      );
      await db.pool.query('analyze baton.schedules');
      await makeDue(db.pool, 'due', 1000);
      for (const look of [isScheduleDue, (tx: Queryable) => lockDueSchedules(tx, 100)]) {
        const rows = await rowsVisited(db.pool, (tx) => look(tx), 'schedules');
        assert.ok(rows <= 5, `${look.name} looks at ${rows} rows`);
      }
    }),
  );
});
