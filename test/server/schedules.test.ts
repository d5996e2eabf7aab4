/**
 * Schedules: what a definition may say, and that each tick has exactly one run, wherever a server stops and whatever
 * happens to the definition meanwhile. Each of the named tests in the second part catches a mutant of
 * test/mutants/schedules.ts, which `npm run mutants` shows.
 */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { LIMITS } from '../../src/base/limits.js';
import { deletePipeline, getPipeline, putPipeline } from '../../src/service/pipelines.js';
import { removeRuns } from '../../src/store/sql/remove_runs.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { must, waitingForLock } from '../support/log_runs.js';
import {
  Gate,
  makeDue,
  nextTimeOf,
  pipelineWith,
  schedule,
  sweeper,
  ticksOf,
  wrongSeconds,
  type Sweeper,
} from '../support/schedules_rig.js';
import { startTestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const RARELY = '0 0 1 1 *';
const SECOND_MS = 1000;

describeOnEveryPostgres('the definition of schedules', (open) => {
  let database: TestDatabase;
  beforeEach(async () => {
    database = await open();
  });
  afterEach(() => database.drop());

  const stages = [{ name: 'work', processingStatus: 'working', doneStatus: 'done' }];

  void test('is stored with its defaults, and comes back with the next tick', async () => {
    const baton = await startTestServer(database.url);
    try {
      const put = await baton.pipelines.putPipeline({
        pipeline: {
          name: 'web',
          stages,
          schedules: [
            { name: 'nightly', cron: '0 30 2 * * MON-FRI', timeZone: 'Europe/Berlin', input: { full: true } },
            {
              ...{ name: 'a', cron: RARELY, repository: 'r', labels: { k: 'v' } },
              ...{ priority: 9, concurrencyKey: 'c', maxAttempts: 7 },
            },
          ],
        },
      });
      const [nightly, yearly] = put.pipeline?.schedules ?? [];
      assert.deepEqual(
        [nightly?.name, nightly?.cron, nightly?.timeZone, nightly?.input, nightly?.maxAttempts],
        ['nightly', '0 30 2 * * MON-FRI', 'Europe/Berlin', { full: true }, 0],
      );
      assert.deepEqual(
        [yearly?.timeZone, yearly?.repository, yearly?.labels, yearly?.input, yearly?.priority],
        ['UTC', 'r', { k: 'v' }, undefined, 9],
      );
      assert.deepEqual([yearly?.concurrencyKey, yearly?.maxAttempts], ['c', 7]);
      const [row] = await database.pool.query<{ next: Date }>(
        `select (date_trunc('year', now() at time zone 'UTC') + interval '1 year') at time zone 'UTC' as next`,
      );
      assert.equal(Number(yearly?.nextTime?.seconds) * 1000, row?.next.getTime());
      const got = await baton.pipelines.getPipeline({ name: 'web' });
      assert.deepEqual(got.pipeline, put.pipeline);
      const listed = await baton.pipelines.listPipelines({});
      assert.deepEqual(
        listed.pipelines.map(({ name, schedules }) => [name, schedules.map((item) => item.name)]),
        [
          ['ci', []],
          ['web', ['nightly', 'a']],
        ],
        'in the order given',
      );
      const again = await baton.pipelines.putPipeline({ pipeline: must(got.pipeline, 'a pipeline') });
      assert.deepEqual(again.pipeline?.schedules, put.pipeline?.schedules, 'what was read may be sent back');
      const without = await baton.pipelines.putPipeline({ pipeline: { name: 'web', stages } });
      assert.deepEqual(without.pipeline?.schedules, []);
    } finally {
      await baton.stop();
    }
  });

  void test('is refused with the names of all fields that are wrong', async () => {
    const baton = await startTestServer(database.url);
    try {
      const fine = { name: 'fine', cron: RARELY };
      const labels = Object.fromEntries(Array.from({ length: 32 }, (_, index) => [`k${index}`, '']));
      const refused = await failure(
        baton.pipelines.putPipeline({
          pipeline: {
            name: 'web',
            stages,
            schedules: [
              fine,
              { name: 'Bad', cron: 'every day', timeZone: 'Mars/Base', labels },
              { name: 'x'.repeat(33), cron: '0 0 30 2 *', repository: 'x'.repeat(257), priority: 10 },
              { name: 'x'.repeat(32), cron: '0,'.repeat(130), timeZone: 'UTC/'.repeat(20), maxAttempts: 101 },
              { ...fine, input: { text: 'x'.repeat(LIMITS.scheduleInputBytes) }, concurrencyKey: '\u0000' },
              { name: 'own', labels: { 'baton.schedule': 'me' } },
            ],
          },
        }),
      );
      assert.equal(refused.reason, 'INVALID_ARGUMENT');
      assert.deepEqual(
        refused.fields.map((field) => field.replace('pipeline.schedules', '')),
        [
          ...['[1].name', '[1].cron', '[1].time_zone', '[1].labels'],
          ...['[2].name', '[2].cron', '[2].repository', '[2].priority'],
          ...['[3].cron', '[3].time_zone', '[3].max_attempts', '[4].input', '[4].concurrency_key'],
          ...['[5].cron', '[5].labels["baton.schedule"]', '[4].name'],
        ],
      );
      assert.match(refused.text, /schedules\[2\]\.cron: never comes/);
      const schedules = Array.from({ length: LIMITS.schedulesPerPipeline + 1 }, (_, index) => ({
        ...fine,
        name: `n${index}`,
      }));
      const many = await failure(
        baton.pipelines.putPipeline({ pipeline: { name: 'web', stages, schedules } }),
      );
      assert.deepEqual(many.fields, ['pipeline.schedules']);
      await baton.pipelines.putPipeline({ pipeline: { name: 'web', stages, schedules: schedules.slice(1) } });
    } finally {
      await baton.stop();
    }
  });
});

describeOnEveryPostgres('the ticks of schedules', (open) => {
  let db: TestDatabase;
  let a: Sweeper;
  let b: Sweeper;

  beforeEach(async () => {
    db = await open();
    a = sweeper(db, 'a');
    b = sweeper(db, 'b');
  });

  afterEach(async () => {
    await a.pool.close();
    await b.pool.close();
    await db.drop();
  });

  const put = (...schedules: Parameters<typeof schedule>[]) =>
    putPipeline(db.pool, pipelineWith('web', ...schedules.map((args) => schedule(...args))));

  void test('a tick makes a run of what its schedule says', async () => {
    await put([
      'yearly',
      {
        ...{ cron: RARELY, repository: 'r', labels: { k: 'v' }, input: { n: 1 } },
        ...{ priority: 3, concurrencyKey: 'c', maxAttempts: 7 },
      },
    ]);
    const next = await nextTimeOf(db.pool, 'yearly');
    await a.schedules.sweep();
    assert.deepEqual(await ticksOf(db.pool, 'yearly'), [], 'not before its time');
    const tick = await makeDue(db.pool, 'yearly', 2 * SECOND_MS);
    await a.schedules.sweep();
    const rows = await db.pool.query(
      `select pipeline, repository, labels, input, priority, concurrency_key, max_attempts, status, schedule_time,
         request_id, claimable_time = create_time as claimable
       from baton.runs`,
    );
    assert.deepEqual(rows, [
      {
        ...{
          pipeline: 'web',
          repository: 'r',
          labels: { k: 'v', 'baton.schedule': 'yearly' },
          input: { n: 1 },
        },
        ...{ priority: 3, concurrency_key: 'c', max_attempts: 7, status: 'new', schedule_time: tick },
        request_id: `schedule:web/yearly@${tick.toISOString().slice(0, 19)}Z`,
        claimable: true,
      },
    ]);
    assert.deepEqual(await nextTimeOf(db.pool, 'yearly'), next);
    assert.deepEqual([a.schedules.createdRuns, a.schedules.failures], [1, 0]);
    await a.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'yearly')).length, 1);
  });

  void test('the longest names leave room for the tick in the request id', async () => {
    const name = 's'.repeat(LIMITS.scheduleNameChars);
    await putPipeline(db.pool, pipelineWith('p'.repeat(LIMITS.nameChars), schedule(name, { cron: RARELY })));
    await makeDue(db.pool, name, SECOND_MS);
    await a.schedules.sweep();
    const [run] = await ticksOf(db.pool, name);
    assert.ok(must(run, 'a run').request_id.length <= LIMITS.requestIdChars);
  });

  void test('two servers that look at once make a tick once', async () => {
    await put(['yearly', { cron: RARELY }]);
    await makeDue(db.pool, 'yearly', SECOND_MS);
    const gate = await Gate.install(db, 'a');
    await gate.close();
    const first = a.schedules.sweep();
    await gate.untilWaiting();
    const second = b.schedules.sweep();
    // It passes over what the other has in hand; a server that did not would wait for it here.
    await Promise.race([
      second,
      waitFor(async () => (await waitingForLock(db.pool)).length > 1, 'the second server to wait'),
    ]);
    await gate.open();
    await within(Promise.all([first, second]), 'both sweeps');
    assert.equal((await ticksOf(db.pool, 'yearly')).length, 1);
    assert.deepEqual([a.schedules.createdRuns, b.schedules.createdRuns], [1, 0]);
  });

  void test('a connection that breaks between a run and its schedule leaves neither', async () => {
    await put(['yearly', { cron: RARELY }]);
    const tick = await makeDue(db.pool, 'yearly', SECOND_MS);
    const gate = await Gate.install(db, 'a');
    await gate.close();
    const broken = a.schedules.sweep();
    await gate.untilWaiting();
    assert.deepEqual(await ticksOf(db.pool, 'yearly'), [], 'a run before its schedule has moved on');
    await gate.breakWaiting();
    await within(broken, 'the broken sweep');
    assert.deepEqual([await ticksOf(db.pool, 'yearly'), await nextTimeOf(db.pool, 'yearly')], [[], tick]);
    await gate.open();
    await a.schedules.sweep();
    const rows = await ticksOf(db.pool, 'yearly');
    assert.deepEqual(
      rows.map(({ schedule_time }) => schedule_time),
      [tick],
    );
    assert.ok((await nextTimeOf(db.pool, 'yearly')) > tick);
    assert.equal(a.schedules.failures, 0, 'a lost connection is no fault of the schedule');
  });

  void test('a connection that breaks in the commit leaves neither a run nor a moved schedule', async () => {
    await put(['yearly', { cron: RARELY }]);
    const tick = await makeDue(db.pool, 'yearly', SECOND_MS);
    // Every commit of a run takes the lock of the log as its last step.
    const log = await db.connect();
    await log.query('select pg_advisory_lock(4773551914087416173)');
    const broken = a.schedules.sweep();
    let pids: number[] = [];
    await waitFor(async () => (pids = await waitingForLock(db.pool)).length > 0, 'the commit');
    await db.pool.query('select pg_terminate_backend($1)', [pids[0]]);
    await within(broken, 'the broken sweep');
    assert.deepEqual([await ticksOf(db.pool, 'yearly'), await nextTimeOf(db.pool, 'yearly')], [[], tick]);
    await log.query('select pg_advisory_unlock(4773551914087416173)');
    await a.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'yearly')).length, 1);
  });

  void test('a server that is cut off in the middle of a tick does not keep it', async () => {
    await put(['yearly', { cron: RARELY }]);
    const tick = await makeDue(db.pool, 'yearly', SECOND_MS);
    const { proxy, url } = await FaultProxy.before(db.url);
    const cut = sweeper(db, 'cut', url);
    const gate = await Gate.install(db, 'cut');
    await gate.close();
    const stuck = cut.schedules.sweep();
    await gate.untilWaiting();
    proxy.mode = 'half-open';
    await gate.open();
    const made = async (): Promise<boolean> => {
      await b.schedules.sweep();
      return (await ticksOf(db.pool, 'yearly')).length > 0;
    };
    try {
      await waitFor(made, 'another server to make the tick', LIMITS.tickMissedMs);
      assert.ok((await nextTimeOf(db.pool, 'yearly')) > tick);
    } finally {
      proxy.reset();
      await within(stuck, 'the sweep that was cut off');
      await cut.pool.close();
      await proxy.close();
    }
    assert.equal((await ticksOf(db.pool, 'yearly')).length, 1);
  });

  void test('of missed ticks the latest has a run, and those before it have none', async () => {
    await put(['often', { cron: '*/5 * * * *' }]);
    await makeDue(db.pool, 'often', 3600 * SECOND_MS);
    const latest = async (): Promise<Date> => {
      const rows = await db.pool.query<{ at: Date }>(
        `select date_bin('5 minutes', clock_timestamp(), timestamptz '2000-01-01') as at`,
      );
      return must(rows[0], 'a time').at;
    };
    const before = await latest();
    await a.schedules.sweep();
    const after = await latest();
    const ticks = (await ticksOf(db.pool, 'often')).map(({ schedule_time }) => schedule_time.getTime());
    assert.equal(ticks.length, 1);
    assert.ok(ticks[0] === before.getTime() || ticks[0] === after.getTime());
    assert.equal((await nextTimeOf(db.pool, 'often')).getTime(), must(ticks[0], 'a tick') + 300 * SECOND_MS);
  });

  void test('a missed tick without any after it has its run', async () => {
    await put(['yearly', { cron: RARELY }]);
    const next = await nextTimeOf(db.pool, 'yearly');
    const tick = new Date(Date.UTC(next.getUTCFullYear() - 1, 0, 1));
    await db.pool.query('update baton.schedules set next_time = $1, due_time = $1', [tick.toISOString()]);
    await a.schedules.sweep();
    assert.deepEqual(
      (await ticksOf(db.pool, 'yearly')).map(({ schedule_time }) => schedule_time),
      [tick],
    );
    assert.deepEqual(await nextTimeOf(db.pool, 'yearly'), next);
  });

  void test('ticks that are only late have a run each', async () => {
    await put(['often']);
    const first = await makeDue(db.pool, 'often', 5 * SECOND_MS);
    await a.schedules.sweep();
    const ticks = await ticksOf(db.pool, 'often');
    assert.ok(ticks.length >= 5, `${ticks.length} ticks`);
    assert.deepEqual(ticks[0]?.schedule_time, first);
    assert.deepEqual(wrongSeconds(ticks), []);
    assert.equal(
      (await nextTimeOf(db.pool, 'often')).getTime(),
      must(ticks.at(-1), 'a tick').schedule_time.getTime() + SECOND_MS,
    );
  });

  void test('the clock of a server has no say in when a tick comes', async () => {
    await waitFor(
      async () => {
        const [row] = await db.pool.query<{ seconds: number }>(
          'select mod(extract(epoch from clock_timestamp())::int, 300) as seconds',
        );
        const { seconds } = must(row, 'a time');
        return seconds >= 4 && seconds <= 285;
      },
      'a moment away from the ticks',
      30_000,
    );
    mock.timers.enable({ apis: ['Date'], now: Date.now() + 40 * 24 * 3600 * SECOND_MS });
    try {
      await put(['often', { cron: '*/5 * * * *' }], ['missed', { cron: '*/5 * * * *' }]);
      const ahead = async (name: string): Promise<number> => {
        const rows = await db.pool.query<{ ms: number }>(
          `select extract(epoch from s.next_time - clock_timestamp())::float8 * 1000 as ms
           from baton.schedules s where s.name = $1`,
          [name],
        );
        return must(rows[0], 'a schedule').ms;
      };
      const isNext = async (name: string): Promise<void> => {
        const ms = await ahead(name);
        assert.ok(ms > -SECOND_MS && ms <= 300 * SECOND_MS, `${name} comes in ${ms} ms`);
      };
      await isNext('often');
      const tick = await makeDue(db.pool, 'often', SECOND_MS);
      await makeDue(db.pool, 'missed', 3600 * SECOND_MS);
      await a.schedules.sweep();
      await isNext('often');
      await isNext('missed');
      assert.deepEqual(
        (await ticksOf(db.pool, 'often')).map(({ schedule_time }) => schedule_time),
        [tick],
      );
      const [late] = await ticksOf(db.pool, 'missed');
      assert.ok(must(late, 'a run').schedule_time <= (await nextTimeOf(db.pool, 'missed')));
    } finally {
      mock.timers.reset();
    }
  });

  void test('a definition that is put again neither skips nor doubles a tick', async () => {
    await put(['kept', {}], ['cron', {}], ['zone', { cron: '0 12 * * *' }]);
    const due = await makeDue(db.pool, 'kept', 2 * SECOND_MS);
    await makeDue(db.pool, 'cron', 2 * SECOND_MS);
    const noon = await nextTimeOf(db.pool, 'zone');
    await put(
      ['zone', { cron: '0 12 * * *', timeZone: 'Asia/Tokyo' }],
      ['cron', { cron: RARELY }],
      ['kept', { repository: 'new' }],
      ['added', {}],
    );
    assert.deepEqual(await nextTimeOf(db.pool, 'kept'), due, 'a tick that is due stays so');
    const rows = await db.pool.query<{ name: string }>(
      "select s.name from baton.schedules s where s.next_time > clock_timestamp() - $1::int * interval '1 ms'",
      [SECOND_MS],
    );
    assert.deepEqual(rows.map(({ name }) => name).sort(), ['added', 'cron', 'zone'], 'others start from now');
    assert.notDeepEqual(await nextTimeOf(db.pool, 'zone'), noon);
    await a.schedules.sweep();
    const [first] = await db.pool.query(
      `select schedule_time, repository from baton.runs where labels ->> 'baton.schedule' = 'kept' order by 1`,
    );
    assert.deepEqual(first, { schedule_time: due, repository: 'new' });
    const made = (await ticksOf(db.pool, 'kept')).length;
    await put(['kept', {}]);
    await a.schedules.sweep();
    const ticks = await ticksOf(db.pool, 'kept');
    assert.ok(ticks.length >= made);
    assert.deepEqual(wrongSeconds(ticks), []);
    assert.deepEqual(await ticksOf(db.pool, 'cron'), []);
  });

  void test('a definition waits for a tick that is being made, and goes on from the next', async () => {
    await put(['yearly', { cron: RARELY }]);
    const next = await nextTimeOf(db.pool, 'yearly');
    await makeDue(db.pool, 'yearly', SECOND_MS);
    const gate = await Gate.install(db, 'a');
    await gate.close();
    const swept = a.schedules.sweep();
    await gate.untilWaiting();
    const redefined = put(['yearly', { cron: RARELY, repository: 'new' }]);
    await waitFor(async () => (await waitingForLock(db.pool)).length > 1, 'the definition to wait');
    await gate.open();
    await within(Promise.all([swept, redefined]), 'the tick and the definition');
    assert.deepEqual(await nextTimeOf(db.pool, 'yearly'), next);
    await b.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'yearly')).length, 1);
  });

  void test('a tick that meets a definition under way holds nothing that it needs, and others come first', async () => {
    await put(['held', { cron: RARELY }]);
    await putPipeline(db.pool, pipelineWith('other', schedule('free', { cron: RARELY })));
    await makeDue(db.pool, 'held', 2 * SECOND_MS);
    await makeDue(db.pool, 'free', SECOND_MS);
    const definition = await db.connect();
    await definition.query('begin');
    // As PutPipeline does before it looks at anything.
    await definition.query(`select from baton.pipelines where name = 'web' for update`);
    const swept = a.schedules.sweep();
    await waitFor(async () => (await waitingForLock(db.pool)).length > 0, 'the tick to wait');
    assert.equal((await ticksOf(db.pool, 'free')).length, 1);
    // A tick that held its schedule while it waits for the definition would be waited for here.
    await definition.query(`set lock_timeout = '200ms'`);
    await definition.query(`delete from baton.schedules where pipeline = 'web'`);
    await definition.query('rollback');
    await within(swept, 'the sweep');
    assert.equal((await ticksOf(db.pool, 'held')).length, 1, 'in the same sweep');
  });

  void test('a definition that is left open keeps only its own pipeline from its ticks', async () => {
    await put(['held', { cron: RARELY }]);
    const tick = await makeDue(db.pool, 'held', SECOND_MS);
    const definition = await db.connect();
    await definition.query('begin');
    await definition.query(`select from baton.pipelines where name = 'web' for update`);
    await within(a.schedules.sweep(), 'the sweep to give up', 3 * LIMITS.tickLockMs);
    await definition.query('rollback');
    assert.deepEqual([await ticksOf(db.pool, 'held'), await nextTimeOf(db.pool, 'held')], [[], tick]);
    assert.equal(a.schedules.failures, 0);
    await a.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'held')).length, 1);
  });

  void test('a tick whose commit has to wait too long for the log is made by the next sweep', async () => {
    await put(['yearly', { cron: RARELY }]);
    await makeDue(db.pool, 'yearly', SECOND_MS);
    const log = await db.connect();
    await log.query('select pg_advisory_lock(4773551914087416173)');
    await within(a.schedules.sweep(), 'the sweep to give up', 3 * LIMITS.tickLockMs);
    await log.query('select pg_advisory_unlock(4773551914087416173)');
    assert.equal(a.schedules.failures, 0, 'that is no fault of the schedule');
    await a.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'yearly')).length, 1);
  });

  void test('a schedule that cannot be read, or whose run is refused, stops no other', async () => {
    await put(
      ['lost', { cron: RARELY }],
      ['poison', { cron: RARELY, repository: 'poison' }],
      ['fine', { cron: RARELY }],
    );
    await db.pool.query(`update baton.schedules set time_zone = 'Mars/Base' where name = 'lost'`);
    await db.pool.query(
      `alter table baton.runs add constraint runs_are_not_poison check (repository <> 'poison')`,
    );
    const ticks = new Map<string, Date>();
    for (const name of ['lost', 'poison', 'fine']) ticks.set(name, await makeDue(db.pool, name, SECOND_MS));
    await a.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'fine')).length, 1);
    assert.equal(a.schedules.failures, 2);
    const errors = a.lines.filter(({ level }) => level === 50);
    assert.deepEqual(errors.map(({ schedule: name }) => String(name)).sort(), ['lost', 'poison']);
    const aside = await db.pool.query(
      `select s.name, s.next_time, s.due_time - clock_timestamp() between '50 s' and '60 s' as later
       from baton.schedules s where s.name <> 'fine' order by s.name`,
    );
    assert.deepEqual(aside, [
      { name: 'lost', next_time: ticks.get('lost'), later: true },
      { name: 'poison', next_time: ticks.get('poison'), later: true },
    ]);
    await b.schedules.sweep();
    assert.equal(b.schedules.failures, 0, 'nobody tries it before');
    await db.pool.query(`update baton.schedules set time_zone = 'UTC', due_time = next_time`);
    await db.pool.query('alter table baton.runs drop constraint runs_are_not_poison');
    await b.schedules.sweep();
    for (const name of ['lost', 'poison']) assert.equal((await ticksOf(db.pool, name)).length, 1, name);
  });

  void test('a request id that somebody holds in an open transaction stops no other tick', async () => {
    await put(['held', { cron: RARELY }], ['fine', { cron: RARELY }]);
    const tick = await makeDue(db.pool, 'held', SECOND_MS);
    await makeDue(db.pool, 'fine', SECOND_MS);
    const holder = await db.connect();
    await holder.query('begin');
    await holder.query(`insert into baton.runs (request_id) values ($1)`, [
      `schedule:web/held@${tick.toISOString().slice(0, 19)}Z`,
    ]);
    await a.schedules.sweep();
    assert.equal((await ticksOf(db.pool, 'fine')).length, 1);
    assert.equal(a.schedules.failures, 1);
    await holder.query('commit');
    await db.pool.query(
      'update baton.schedules set due_time = next_time where due_time < next_time + $1::interval',
      ['1 day'],
    );
    await a.schedules.sweep();
    assert.deepEqual(await ticksOf(db.pool, 'held'), [], 'the run of that id stands for the tick');
    assert.ok((await nextTimeOf(db.pool, 'held')) > tick);
  });

  void test('a run that retention has removed is not made again', async () => {
    await put(['yearly', { cron: RARELY }]);
    await makeDue(db.pool, 'yearly', SECOND_MS);
    await a.schedules.sweep();
    await db.pool.query(`update baton.runs set status = 'done'`);
    await db.pool.query('update baton.log set oldest_revision = (select last_value + 1 from baton.revision)');
    await waitFor(async () => (await removeRuns(db.pool, 0, 10)) === 1, 'the run to be removed');
    await a.schedules.sweep();
    await b.schedules.sweep();
    assert.deepEqual(await ticksOf(db.pool, 'yearly'), []);
  });

  void test('a pipeline that is deleted takes its schedules along, and one that is paused does not stop them', async () => {
    await put(['often']);
    await putPipeline(db.pool, pipelineWith('gone', schedule('never', { cron: RARELY })));
    await makeDue(db.pool, 'never', SECOND_MS);
    await deletePipeline(db.pool, 'gone');
    await db.pool.query(`update baton.pipelines set paused = true where name = 'web'`);
    await makeDue(db.pool, 'often', SECOND_MS);
    await a.schedules.sweep();
    assert.deepEqual(await ticksOf(db.pool, 'never'), []);
    assert.ok((await ticksOf(db.pool, 'often')).length > 0);
    assert.equal((await getPipeline(db.pool, 'web')).paused, true);
  });

  void test('more schedules than one transaction takes are all made', async () => {
    const names = Array.from({ length: 4 }, (_, index) => `p${index}`);
    for (const name of names) {
      const schedules = Array.from({ length: LIMITS.schedulesPerPipeline }, (_, index) =>
        schedule(`s${index}`, { cron: RARELY }),
      );
      await putPipeline(db.pool, pipelineWith(name, ...schedules));
    }
    const count = names.length * LIMITS.schedulesPerPipeline;
    assert.ok(count > LIMITS.dueSchedules);
    await db.pool.query(
      `update baton.schedules set next_time = date_trunc('second', now()), due_time = date_trunc('second', now())`,
    );
    await Promise.all([a.schedules.sweep(), b.schedules.sweep()]);
    await a.schedules.sweep();
    const [row] = await db.pool.query('select count(*)::int as runs from baton.runs');
    assert.deepEqual(row, { runs: count });
    assert.equal(a.schedules.createdRuns + b.schedules.createdRuns, count);
  });
});

void describe('the limits of schedules', () => {
  void test('a server that stands still is found out long before its ticks count as missed', () => {
    assert.ok(3 * LIMITS.tickIdleMs < LIMITS.tickMissedMs);
  });
});
