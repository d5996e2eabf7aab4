/** Ticks with whole servers in processes of their own, of which some are stopped, stand still or are killed. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeOnEveryPostgresAtOnce, type TestDatabase } from '../support/database.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { fresh, must } from '../support/log_runs.js';
import {
  Gate,
  pipelineWith,
  schedule,
  ticksOf,
  wrongSeconds,
  type TickRow,
} from '../support/schedules_rig.js';
import { putPipeline } from '../../src/service/pipelines.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';

const TICKS_TIMEOUT_MS = 60_000;
/** Longer than a tick may be late without counting as missed. */
const DOWN_MS = 12_000;

/** Servers in processes of their own, by what their sessions are called; those that still run are killed after `work`. */
async function withServers<Name extends string>(
  db: TestDatabase,
  names: readonly Name[],
  work: (servers: Readonly<Record<Name, ServerProcess>>) => Promise<void>,
): Promise<void> {
  const servers = names.map((name) => {
    const url = new URL(db.url);
    url.searchParams.set('application_name', name);
    const server = new ServerProcess(['serve', ...ANY_PORT], { env: { DATABASE_URL: url.toString() } });
    return [name, server] as const;
  });
  try {
    await Promise.all(servers.map(([, server]) => server.ready()));
    await work(Object.fromEntries(servers) as Record<Name, ServerProcess>);
  } finally {
    await Promise.all(servers.map(([, server]) => server.end('SIGKILL')));
  }
}

/** Waits for so many more ticks of the schedule, and gives all. */
async function moreTicks(db: TestDatabase, count: number): Promise<TickRow[]> {
  const before = (await ticksOf(db.pool, 'often')).length;
  let ticks: TickRow[] = [];
  await waitFor(
    async () => (ticks = await ticksOf(db.pool, 'often')).length >= before + count,
    `${count} more ticks`,
    TICKS_TIMEOUT_MS,
  );
  return ticks;
}

async function databaseTime(db: TestDatabase): Promise<number> {
  const [row] = await db.pool.query<{ now: Date }>('select clock_timestamp() as now');
  return must(row, 'a time').now.getTime();
}

describeOnEveryPostgresAtOnce('schedules with several servers', (open) => {
  void test('each second has one run, whatever becomes of two of three servers', (t) =>
    fresh(open, (db) =>
      withServers(db, ['victim', 'killed', 'steady'], async ({ victim, killed, steady }) => {
        const gate = await Gate.install(db, 'victim');
        await putPipeline(db.pool, pipelineWith('web', schedule('often')));
        await moreTicks(db, 3);

        // One stands still in the middle of a tick, with the schedule in hand; the database takes it back. The others
        // stand still until it has come there.
        await gate.close();
        for (const other of [killed, steady]) other.child.kill('SIGSTOP');
        await gate.untilWaiting();
        victim.child.kill('SIGSTOP');
        await gate.open();
        for (const other of [killed, steady]) other.child.kill('SIGCONT');
        await moreTicks(db, 4);
        killed.child.kill('SIGKILL');
        await moreTicks(db, 4);
        victim.child.kill('SIGCONT');
        await moreTicks(db, 4);

        // The one that stood still makes ticks again, and alone.
        await steady.end();
        const ticks = await moreTicks(db, 3);
        assert.deepEqual(wrongSeconds(ticks), []);
        const first = must(ticks[0], 'a tick').schedule_time.getTime();
        const last = must(ticks.at(-1), 'a tick').schedule_time.getTime();
        assert.equal(ticks.length, (last - first) / 1000 + 1);
        assert.equal(new Set(ticks.map(({ request_id }) => request_id)).size, ticks.length);
        const late = await db.pool.query<{ ms: number }>(
          `select extract(epoch from max(create_time - schedule_time))::float8 * 1000 as ms from baton.runs`,
        );
        t.diagnostic(`the latest tick came ${Math.round(must(late[0], 'a row').ms)} ms after its time`);
      }),
    )(t));

  void test('a pipeline that is redefined all the time has its ticks, and nobody fails', (t) =>
    fresh(open, async (db) => {
      const servers = [await startTestServer(db.url), await startTestServer(db.url)];
      const stage = { name: 'work', processingStatus: 'working', doneStatus: 'done' };
      const stop = new AbortController();
      let puts = 0;
      const redefine = async ({ pipelines }: TestServer): Promise<void> => {
        while (!stop.signal.aborted) {
          puts += 1;
          const often = { name: 'often', cron: '* * * * * *', repository: `put ${puts}` };
          await pipelines.putPipeline({ pipeline: { name: 'web', stages: [stage], schedules: [often] } });
        }
      };
      try {
        const redefining = Promise.all(servers.map(redefine));
        const ticks = await Promise.race([moreTicks(db, 6), redefining.then(() => [])]);
        stop.abort();
        await redefining;
        assert.deepEqual(wrongSeconds(ticks), []);
        assert.ok(ticks.length >= 6 && puts > 20, `${ticks.length} ticks, ${puts} definitions`);
        const [row] = await db.pool.query(
          'select deadlocks::int from pg_stat_database where datname = current_database()',
        );
        assert.deepEqual(row, { deadlocks: 0 });
      } finally {
        stop.abort();
        await Promise.all(servers.map((server) => server.stop()));
      }
    })(t));

  void test('after all servers were down, one run stands for the ticks that were missed', (t) =>
    fresh(open, async (db) => {
      await withServers(db, ['before'], async () => {
        await putPipeline(db.pool, pipelineWith('web', schedule('often')));
        await moreTicks(db, 3);
      });
      const made = await ticksOf(db.pool, 'often');
      const lastBefore = must(made.at(-1), 'a tick').schedule_time.getTime();
      await waitFor(
        async () => (await databaseTime(db)) > lastBefore + DOWN_MS,
        'ticks to be missed',
        2 * DOWN_MS,
      );
      const start = await databaseTime(db);
      await withServers(db, ['after'], async () => {
        const ticks = (await moreTicks(db, 3)).slice(made.length);
        assert.deepEqual(wrongSeconds(made), []);
        assert.deepEqual(wrongSeconds(ticks), []);
        const firstAfter = must(ticks[0], 'a tick').schedule_time.getTime();
        assert.ok(firstAfter > start - 1000, 'the latest tick, and none before it');
      });
    })(t));
});
