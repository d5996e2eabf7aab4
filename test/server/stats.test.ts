/** GetStats against a plain recount of the histories, over all servers, whatever happened to the runs. */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Code } from '@connectrpc/connect';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { LIMITS } from '../../src/base/limits.js';
import { systemClock } from '../../src/base/clock.js';
import { Retention } from '../../src/service/retention.js';
import { getStatsFlow } from '../../src/store/sql/get_stats_flow.js';
import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import type { Pipeline } from '../../gen/baton/v1/pipeline_pb.js';
import {
  GetStatsResponseSchema,
  type PipelineStats,
  type StageStats,
} from '../../gen/baton/v1/pipeline_service_pb.js';
import { describeOnEveryPostgresAtOnce, silent, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { rowsVisited } from '../support/log_plan.js';
import { Prng } from '../support/log_prng.js';
import { must } from '../support/log_runs.js';
import { SEED, seeded } from '../support/seed.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { assertStats, durationMs, recount } from '../support/stats_oracle.js';
import { waitFor, within } from '../support/wait.js';

const BUILD = ['fetch', 'compile', 'link'].map((name) => ({
  name,
  processingStatus: `${name}ing`,
  doneStatus: `${name}ed`,
  backoff: { initial: { nanos: 30_000_000 }, multiplier: 1, jitter: 0 },
}));

describeOnEveryPostgresAtOnce('GetStats', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let other: TestServer;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    other = await startTestServer(database.url);
  });

  afterEach(async () => {
    await Promise.all([baton.stop(), other.stop()]);
    await database.drop();
  });

  const now = async (): Promise<number> => {
    const [row] = await database.pool.query<{ ms: number }>(
      'select (extract(epoch from clock_timestamp()) * 1000)::float8 as ms',
    );
    return must(row, 'the time').ms;
  };

  /** Lets so many seconds go by for what is in the log. */
  const age = (seconds: number): Promise<unknown> =>
    database.pool.query(`update baton.run_events set append_time = append_time - $1 * interval '1 second'`, [
      seconds,
    ]);

  const definitions = async (): Promise<Pipeline[]> => (await baton.pipelines.listPipelines({})).pipelines;

  const statsOf = async (pipeline = 'ci'): Promise<PipelineStats> =>
    must((await baton.pipelines.getStats({ pipeline })).pipelines[0], 'an entry');

  const stageOf = async (stage: string): Promise<StageStats> =>
    must(
      (await statsOf()).stages.find((entry) => entry.stage === stage),
      `stage ${stage}`,
    );

  const checkBothServers = async (): Promise<void> => {
    const models = await recount(other.jobs, await definitions());
    for (const server of [baton, other]) {
      const before = await now();
      const { pipelines } = await server.pipelines.getStats({});
      assertStats(pipelines, models, [before, await now()]);
    }
  };

  const claim = async (stage = 'initialize', pipeline = 'ci'): Promise<Claim> => {
    const { claims } = await baton.jobs.claimNext({ pipeline, stage, wait: { seconds: 5n } });
    return must(claims[0], `a run that waits in ${stage}`);
  };

  const report = (server: TestServer, held: Claim, status: string, retry = false): Promise<unknown> =>
    server.jobs.updateStatus({
      runId: held.run?.id ?? '',
      leaseToken: held.leaseToken,
      status,
      ...(retry ? { error: { code: 'X', retryable: true } } : {}),
    });

  void test('agrees with a recount of the histories after anything that two servers and SQL do', async () => {
    await baton.pipelines.putPipeline({ pipeline: { name: 'build', stages: BUILD } });
    await baton.pipelines.putPipeline({ pipeline: { name: 'empty', stages: BUILD } });
    const random = new Prng(SEED);
    const held: Claim[] = [];
    const later = timestampFromMs(Date.now() + 3_600_000);
    for (let step = 0; step < 250; step += 1) {
      const server = random.pick([baton, other]);
      const pipeline = random.pick(['ci', 'build']);
      const stage = random.pick(pipeline === 'ci' ? ['initialize', 'run'] : ['fetch', 'compile', 'link']);
      const action = random.between(0, 9);
      if (action <= 2) {
        await server.jobs.createRun({
          pipeline,
          priority: random.between(0, 9),
          ...(random.chance(0.2) ? { scheduleTime: later } : {}),
        });
      } else if (action <= 5) {
        const { claims } = await server.jobs.claimNext({ pipeline, stage, maxRuns: random.between(1, 3) });
        held.push(...claims);
      } else if (action <= 7) {
        const [taken] = held.splice(random.between(0, Math.max(0, held.length - 1)), 1);
        const run = taken?.run;
        if (taken === undefined || run === undefined) continue;
        const definition = must(
          (await definitions()).find(({ name }) => name === run.pipeline),
          run.pipeline,
        );
        const at = must(
          definition.stages.find(({ name }) => name === run.stage),
          run.stage,
        );
        const status = random.pick([at.doneStatus, at.doneStatus, 'error', 'canceled', at.waitingStatus]);
        await report(server, taken, status, random.chance(0.7) && status === 'error');
      } else if (action === 8) {
        const { runs } = await server.jobs.listRuns({ pageSize: 5, filter: { pipelines: [pipeline] } });
        const run = runs.length === 0 ? undefined : random.pick(runs);
        const ended = run?.endTime !== undefined;
        if (run !== undefined && ended) await server.jobs.retryRun({ runId: run.id });
        else if (run !== undefined && random.chance(0.5)) await server.jobs.cancelRun({ runId: run.id });
      } else {
        // A worker of plain SQL, and one that only moves a schedule or a priority.
        const change = random.pick([
          `status = 'initializing'`,
          'priority = 3',
          `schedule_time = now() - interval '1 hour'`,
        ]);
        await database.pool.query(
          `update baton.runs set ${change} where id = (
             select id from baton.runs where status = 'new' and pipeline = 'ci' and claimable_time <= now() limit 1)`,
        );
      }
    }
    // One that came due between the recount and the server's would be seen by one of them alone.
    await waitFor(async () => {
      const soon = await database.pool.query(
        `select from baton.runs where state = 'PENDING' and claimable_time > clock_timestamp()
           and claimable_time < clock_timestamp() + interval '1 minute'`,
      );
      return soon.length === 0;
    }, 'all retries to be due');
    await seeded(checkBothServers);
  });

  void test('shows a database without runs as zeros, and no rates or waits out of nothing', async () => {
    const { pipelines } = await baton.pipelines.getStats({});
    const nothing = {
      pendingCount: 0n,
      activeCount: 0n,
      claimsPerSecond: 0,
      completionsPerSecond: 0,
      paused: false,
    };
    const expected: MessageInitShape<typeof GetStatsResponseSchema> = {
      pipelines: [
        {
          pipeline: 'ci',
          stages: [
            { stage: 'initialize', ...nothing },
            { stage: 'run', ...nothing },
          ],
        },
      ],
    };
    assert.deepEqual(pipelines, create(GetStatsResponseSchema, expected).pipelines);
  });

  void test('a run that is delayed is pending and does not age', async () => {
    await baton.jobs.createRun({ scheduleTime: timestampFromMs(Date.now() + 3_600_000) });
    const delayed = await stageOf('initialize');
    assert.deepEqual([delayed.pendingCount, delayed.oldestWaitingAge], [1n, undefined]);
    await baton.jobs.createRun({});
    await database.pool.query(
      `update baton.runs set claimable_time = now() - interval '90 seconds' where claimable_time < now()`,
    );
    const due = await stageOf('initialize');
    const waiting = must(durationMs(due.oldestWaitingAge), 'an age');
    assert.equal(due.pendingCount, 2n);
    assert.ok(waiting >= 90_000 && waiting < 100_000, `${waiting} ms`);
  });

  void test('a wait counts from when the run could be claimed: after a delay, a hand-back and a retry', async () => {
    const { run } = await baton.jobs.createRun({});
    const wait = async (): Promise<number> => {
      const [row] = await database.pool.query<{ ms: number | null }>(
        `select (extract(epoch from waited) * 1000)::float8 as ms from baton.run_events
         where type = 'CLAIMED' order by revision desc limit 1`,
      );
      return must(row?.ms ?? undefined, 'a wait');
    };
    const become = (claimable: string): Promise<unknown> =>
      database.pool.query(`update baton.runs set claimable_time = now() - interval '${claimable}'`);
    await become('40 seconds');
    await report(baton, await claim(), 'new');
    assert.ok((await wait()) >= 40_000, 'the first wait');
    const handedBack = await claim();
    assert.ok((await wait()) < 10_000, 'handed back a moment ago');
    await report(baton, handedBack, 'error', true);
    const [before] = await database.pool.query<{ ahead: boolean }>(
      'select claimable_time > update_time as ahead from baton.runs',
    );
    assert.deepEqual(before, { ahead: true }, 'the backoff counts for nothing');
    const retried = await claim();
    const [exact] = await database.pool.query<{ same: boolean }>(
      `select waited = update_time - schedule_time as same from baton.run_events order by revision desc limit 1`,
    );
    assert.deepEqual(exact, { same: true }, 'the backoff is no wait');
    await report(baton, retried, 'error');
    await baton.jobs.retryRun({ runId: run?.id ?? '' });
    await become('70 seconds');
    await claim();
    assert.ok((await wait()) >= 70_000 && (await wait()) < 80_000, 'the wait after RetryRun');
    const { claimsPerSecond, waitP50, waitP95 } = await stageOf('initialize');
    assert.equal(Math.round(claimsPerSecond * 60), 4);
    // Two of 40 s and 70 s, two of next to nothing: half way between the two in the middle, and nearly the greatest.
    const [p50, p95] = [must(durationMs(waitP50), 'p50'), must(durationMs(waitP95), 'p95')];
    assert.ok(p50 >= 20_000 && p50 < 25_000, `p50 ${p50} ms`);
    assert.ok(p95 >= 65_500 && p95 < 75_000, `p95 ${p95} ms`);
  });

  void test('a run that plain SQL takes before its time has waited for nothing', async () => {
    await database.pool.query(`insert into baton.runs (schedule_time) values (now() + interval '1 hour')`);
    await database.pool.query(`update baton.runs set status = 'initializing'`);
    const { waitP50, activeCount } = await stageOf('initialize');
    assert.deepEqual([durationMs(waitP50), activeCount], [0, 1n]);
  });

  void test('flow is that of the last minute', async () => {
    for (let index = 0; index < 30; index += 1) {
      await baton.jobs.createRun({});
      await report(baton, await claim(), 'initialized');
      if (index % 10 === 9) await age(15);
    }
    // 15, 30 and 45 seconds ago; then the first ten are too old, then all.
    for (const left of [30, 20, 10, 0]) {
      const { claimsPerSecond, completionsPerSecond, waitP50 } = await stageOf('initialize');
      assert.deepEqual(
        [Math.round(claimsPerSecond * 60), Math.round(completionsPerSecond * 60)],
        [left, left],
      );
      assert.equal(waitP50 === undefined, left === 0);
      await age(15);
    }
    assert.equal((await stageOf('run')).pendingCount, 30n);
  });

  void test('reads no more of the log than the last minute, whatever is kept', async () => {
    await database.pool.query(
      `insert into baton.runs (status) select 'success' from generate_series(1, 4000)`,
    );
    await age(61);
    await baton.jobs.createRun({});
    await claim();
    await database.pool.query('analyze baton.run_events');
    const rows = await rowsVisited(database.pool, (db) => getStatsFlow(db, 60_000), 'run_events');
    assert.ok(rows > 0 && rows < 60, `${rows} events were read`);
  });

  void test('a pause is shown at the stage, or at all stages of a paused pipeline, and stops no age', async () => {
    await baton.jobs.createRun({});
    const paused = async (): Promise<boolean[]> => (await statsOf()).stages.map((stage) => stage.paused);
    await baton.pipelines.pausePipeline({ name: 'ci', stage: 'run' });
    assert.deepEqual(await paused(), [false, true]);
    await baton.pipelines.pausePipeline({ name: 'ci' });
    assert.deepEqual(await paused(), [true, true]);
    assert.ok((await stageOf('initialize')).oldestWaitingAge !== undefined);
    await baton.pipelines.resumePipeline({ name: 'ci' });
    await baton.pipelines.resumePipeline({ name: 'ci', stage: 'run' });
    assert.deepEqual(await paused(), [false, false]);
  });

  void test('does not count runs that retention has removed, nor history that is gone', async () => {
    const partition = 50;
    const retention = new Retention({
      pool: database.pool,
      clock: systemClock,
      log: silent,
      policy: { logMs: 1, runsMs: 1, partitionRevisions: partition },
    });
    await baton.jobs.createRun({});
    await report(baton, await claim(), 'canceled');
    assert.equal((await statsOf()).canceledCount, 1n);
    assert.ok((await stageOf('initialize')).claimsPerSecond > 0);
    for (const name of ['run_events_p0', 'run_events_p1000000', 'run_events_p2000000'])
      await database.pool.query(`drop table if exists baton.${name}`);
    await retention.sweep();
    for (let index = 0; index < partition + 20; index += 1) await baton.jobs.createRun({});
    await retention.sweep();
    assert.equal((await statsOf()).canceledCount, 0n);
    const { pendingCount, claimsPerSecond, waitP50 } = await stageOf('initialize');
    assert.deepEqual([pendingCount, claimsPerSecond, waitP50], [BigInt(partition + 20), 0, undefined]);
  });

  void test('refuses a bad name and does not know an unknown one; an empty one means all', async () => {
    for (const pipeline of ['No Name', 'x'.repeat(64), '-', 'a\u0000']) {
      const { code, fields } = await failure(baton.pipelines.getStats({ pipeline }));
      assert.deepEqual([code, fields], [Code.InvalidArgument, ['pipeline']], pipeline);
    }
    const { code, reason, metadata } = await failure(baton.pipelines.getStats({ pipeline: 'nope' }));
    assert.deepEqual([code, reason, metadata], [Code.NotFound, 'PIPELINE_NOT_FOUND', { pipeline: 'nope' }]);
    await baton.pipelines.putPipeline({ pipeline: { name: 'a', stages: BUILD } });
    const names = async (pipeline: string): Promise<string[]> =>
      (await baton.pipelines.getStats({ pipeline })).pipelines.map((entry) => entry.pipeline);
    assert.deepEqual(await names(''), ['a', 'ci']);
    assert.deepEqual(await names('a'), ['a']);
  });

  void test('many that ask at once share a reading, and none is shown what was before it asked', async () => {
    const readings = async (): Promise<number> => {
      const rows = await database.pool.query(
        `select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
           and query like '%with recursive head%' and pid <> pg_backend_pid()`,
      );
      return rows.length;
    };
    const locker = await database.connect();
    await locker.query('begin');
    await locker.query('lock table baton.run_events');
    // It has counted the runs, and stands before the log.
    const first = baton.pipelines.getStats({});
    await waitFor(async () => (await readings()) === 1, 'the first reading to stand still');
    await locker.query(`insert into baton.runs (status) values ('success')`);
    const more = Array.from({ length: 20 }, () => baton.pipelines.getStats({}));
    await baton.pipelines.listPipelines({});
    assert.equal(await readings(), 1, 'one reading at a time');
    await locker.query('commit');
    assert.equal((await within(first, 'the first answer')).pipelines[0]?.succeededCount, 0n);
    for (const { pipelines } of await within(Promise.all(more), 'the other answers'))
      assert.equal(pipelines[0]?.succeededCount, 1n);
  });

  void test('a database that takes too long is unavailable, and the reading after it works', async () => {
    const locker = await database.connect();
    await locker.query('begin');
    await locker.query('lock table baton.stages');
    const answer = failure(baton.pipelines.getStats({}));
    const { reason } = await within(answer, 'the answer', LIMITS.statsTimeoutMs);
    assert.equal(reason, 'DATABASE_UNAVAILABLE');
    await locker.query('commit');
    assert.equal((await baton.pipelines.getStats({})).pipelines.length, 1);
  });
});
