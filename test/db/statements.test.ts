/** Every statement of src/store/sql on a real PostgreSQL: what it takes, what it leaves alone, and who may do it at once. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { systemClock } from '../../src/base/clock.js';
import { MATCH_ALL, type RunFilter } from '../../src/run/filter.js';
import { endedBy } from '../../src/run/lease_end.js';
import { STAGE_DEFAULTS, type PipelineDefinition, type StageDefinition } from '../../src/run/pipeline.js';
import { changeKey, type Run } from '../../src/run/run.js';
import type { CallContext, CreateRunRequest } from '../../src/service/api.js';
import { CreateRuns } from '../../src/service/create_run.js';
import { decodeLeaseToken, encodeLeaseToken } from '../../src/store/lease_token.js';
import type { Queryable } from '../../src/store/pool.js';
import { claimRuns } from '../../src/store/sql/claim_runs.js';
import { createRuns } from '../../src/store/sql/create_runs.js';
import { expireLeases } from '../../src/store/sql/expire_leases.js';
import { findDueStages } from '../../src/store/sql/find_due_stages.js';
import { findLeaseEnd } from '../../src/store/sql/find_lease_end.js';
import { findRequests } from '../../src/store/sql/find_requests.js';
import { getPipeline, getPipelineNames, listPipelines } from '../../src/store/sql/get_pipelines.js';
import { getRun } from '../../src/store/sql/get_run.js';
import { listRunEvents } from '../../src/store/sql/list_run_events.js';
import { listRuns } from '../../src/store/sql/list_runs.js';
import { putPipeline } from '../../src/store/sql/put_pipeline.js';
import { readEvents } from '../../src/store/sql/read_events.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { readNewWork } from '../../src/store/sql/read_new_work.js';
import { findClaims } from '../../src/store/sql/find_claims.js';
import { releaseClaims } from '../../src/store/sql/release_claims.js';
import { extendLeases } from '../../src/store/sql/extend_leases.js';
import { isLeaseLive, updateRuns } from '../../src/store/sql/update_runs.js';
import { describeOnEveryPostgres } from '../support/database.js';
import { bulkInsert, rowsVisited } from '../support/log_plan.js';
import {
  claim,
  claimOne,
  create,
  endLease,
  fresh,
  must,
  newRun,
  type UpdateFields,
  report,
  update,
  waitingForLock,
  type Held,
} from '../support/log_runs.js';
import { waitFor, within } from '../support/wait.js';

const ids = (runs: readonly Run[]): string[] => runs.map(({ id }) => id);
const heldIds = (held: readonly Held[]): string[] => held.map(({ run }) => run.id);

function stage(name: string, fields: Partial<StageDefinition> = {}): StageDefinition {
  return { name, processingStatus: `${name}ing`, doneStatus: `${name}ed`, ...STAGE_DEFAULTS, ...fields };
}

function definition(stages: readonly StageDefinition[], name = 'build'): PipelineDefinition {
  return {
    name,
    description: '',
    initialStatus: 'new',
    errorStatus: 'error',
    canceledStatus: 'canceled',
    schedules: [],
    stages,
  };
}

const CI = definition(
  [
    stage('initialize', { processingStatus: 'initializing', doneStatus: 'initialized' }),
    stage('run', { processingStatus: 'running', doneStatus: 'success' }),
  ],
  'ci',
);

/** The run as it is in the database, with how far its lease and its wait reach from now, in milliseconds. */
async function look(db: Queryable, id: string): Promise<Record<string, unknown>> {
  const [row] = await db.query(
    `select r.*, extract(epoch from r.lease_expire_time - clock_timestamp()) * 1000 as lease_left_ms,
       extract(epoch from r.claimable_time - r.update_time) * 1000 as wait_ms
     from baton.runs r where r.id = $1`,
    [id],
  );
  return must(row, `run ${id}`);
}

async function claimed(db: Queryable, stageName = 'initialize'): Promise<Held> {
  await create(db, {});
  if (stageName === 'run') await update(db, await claimOne(db), 'initialized');
  return claimOne(db, stageName);
}

function between(actual: unknown, low: number, high: number, what: string): void {
  const value = Number(actual);
  assert.ok(value >= low && value <= high, `${what} is ${value}, expected ${low} to ${high}`);
}

/** A request for a run without anything special. */
const REQUEST: CreateRunRequest = {
  pipeline: 'ci',
  repository: '',
  labels: {},
  input: undefined,
  priority: 0,
  scheduleTime: undefined,
  concurrencyKey: '',
  maxAttempts: 0,
  requestId: '',
  traceParent: '',
};
const CALL: CallContext = {
  signal: new AbortController().signal,
  onUndelivered: () => undefined,
  abandon: () => undefined,
};

describeOnEveryPostgres('statements', (open) => {
  void describe('claimRuns', () => {
    void test(
      'goes by priority, then by the time at which a run became claimable, then by id',
      fresh(open, async (db) => {
        const [a, b, c, d, e] = ids(
          await create(db.pool, { priority: 1 }, { priority: 9 }, {}, { priority: 9 }, { priority: 1 }),
        );
        await db.pool.query(`update baton.runs set claimable_time = '2026-01-02' where id = any ($1)`, [
          [a, b, d, e],
        ]);
        await db.pool.query(`update baton.runs set claimable_time = '2026-01-01' where id = $1`, [d]);
        assert.deepEqual(heldIds(await claim(db.pool, 'initialize', 10)), [d, b, a, e, c]);
      }),
    );

    void test(
      'gives the places in order to the workers in order, each with its own lease',
      fresh(open, async (db) => {
        const runs = await create(db.pool, {}, {}, {}, {});
        const { claims, pipelineKnown, stageKnown } = await claimRuns(db.pool, {
          pipeline: 'ci',
          stage: 'initialize',
          slots: [
            { workerId: 'a', leaseMs: 5000, maxRuns: 2 },
            { workerId: 'b', leaseMs: 0, maxRuns: 1 },
            { workerId: 'c', leaseMs: 0, maxRuns: 3 },
            { workerId: 'd', leaseMs: 0, maxRuns: 1 },
          ],
        });
        assert.deepEqual([pipelineKnown, stageKnown], [true, true]);
        assert.deepEqual(
          claims.map((items) => ids(items.map(({ run }) => run))),
          [ids(runs.slice(0, 2)), ids(runs.slice(2, 3)), ids(runs.slice(3)), []],
        );
        assert.deepEqual(
          claims.flat().map(({ run }) => run.workerId),
          ['a', 'a', 'b', 'c'],
        );
        for (const { run, leaseExpireTime, leaseToken } of claims.flat()) {
          const lease = must(decodeLeaseToken(leaseToken), 'a token');
          assert.equal(encodeLeaseToken(lease), leaseToken);
          assert.ok(await isLeaseLive(db.pool, run.id, lease));
          const row = await look(db.pool, run.id);
          const leaseMs = run.workerId === 'a' ? 5000 : 60_000;
          assert.equal(row['lease_ms'], BigInt(leaseMs));
          between(row['lease_left_ms'], leaseMs - 5000, leaseMs, 'the lease');
          assert.deepEqual(row['lease_expire_time'], leaseExpireTime);
        }
      }),
    );

    void test(
      'passes over a row that somebody has locked, and comes back to it',
      fresh(open, async (db) => {
        const [locked, free] = ids(await create(db.pool, { priority: 9 }, {}));
        const client = await db.connect();
        await client.query('begin');
        await client.query('select from baton.runs where id = $1 for update', [locked]);
        assert.deepEqual(heldIds(await within(claim(db.pool, 'initialize', 5), 'a claim')), [free]);
        await client.query('commit');
        assert.deepEqual(heldIds(await claim(db.pool, 'initialize', 5)), [locked]);
      }),
    );

    void test(
      'gives nothing of a paused pipeline or stage, and says what is unknown',
      fresh(open, async (db) => {
        const [run] = await create(db.pool, {});
        for (const table of ['pipelines', 'stages']) {
          await db.pool.query(`update baton.${table} set paused = true`);
          assert.equal((await claim(db.pool, 'initialize')).length, 0);
          await db.pool.query(`update baton.${table} set paused = false`);
        }
        const slots = [{ workerId: 'w', leaseMs: 0, maxRuns: 1 }];
        assert.deepEqual(await claimRuns(db.pool, { pipeline: 'ci', stage: 'nope', slots: slots }), {
          pipelineKnown: true,
          stageKnown: false,
          stageLimited: false,
          left: 0,
          claims: [[]],
          last: new Map(),
        });
        assert.deepEqual(await claimRuns(db.pool, { pipeline: 'nope', stage: 'run', slots: slots }), {
          pipelineKnown: false,
          stageKnown: false,
          stageLimited: false,
          left: 0,
          claims: [[]],
          last: new Map(),
        });
        assert.deepEqual(heldIds(await claim(db.pool, 'initialize')), [run?.id]);
      }),
    );

    void test(
      'never gives a run to two of many that ask at once',
      fresh(open, async (db) => {
        await create(db.pool, ...Array.from({ length: 400 }, () => ({})));
        const got: string[] = [];
        const work = async (): Promise<void> => {
          for (let held = await claim(db.pool, 'initialize', 7); held.length > 0;) {
            got.push(...heldIds(held));
            held = await claim(db.pool, 'initialize', 7);
          }
        };
        await Promise.all(Array.from({ length: 12 }, work));
        assert.deepEqual([got.length, new Set(got).size], [400, 400]);
      }),
    );

    void test(
      'draws a new fence each time, and counts the attempts of the stage',
      fresh(open, async (db) => {
        const first = await claimed(db.pool);
        await update(db.pool, first, 'error', { retryable: true, retryDelayMs: 0 });
        const second = await claimOne(db.pool);
        assert.equal(second.lease.number, first.lease.number + 1n);
        assert.notEqual(second.lease.id, first.lease.id);
        assert.deepEqual([first.run.attempt, second.run.attempt], [1, 2]);
        await update(db.pool, second, 'initialized');
        assert.equal((await claimOne(db.pool, 'run')).run.attempt, 1);
      }),
    );
  });

  void describe('updateRuns', () => {
    void test(
      'completes a stage: the next one waits with a clean slate',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const run = must(
          await update(db.pool, held, 'initialized', { output: { n: 1 }, checkpoint: { c: 1 } }),
          'an update',
        );
        assert.deepEqual(
          [run.stage, run.state, run.attempt, run.leaseExpireTime],
          ['run', 'PENDING', 0, undefined],
        );
        const stored = must(await getRun(db.pool, run.id), 'the run');
        assert.deepEqual([stored.output, stored.checkpoint], [{ n: 1 }, undefined]);
        const last = await claimOne(db.pool, 'run');
        assert.deepEqual(last.run.output, { n: 1 }, 'the next worker reads the last output');
        const end = must(await update(db.pool, last, 'success'), 'an update');
        assert.deepEqual([end.stage, end.state, end.progress], ['', 'SUCCEEDED', 1]);
        assert.ok(end.startTime !== undefined && end.endTime !== undefined && end.endTime >= end.startTime);
      }),
    );

    void test(
      'fails a run for good, unless its worker says that it may be retried',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const run = must(await update(db.pool, held, 'error', { errorCode: 'X', errorMessage: 'm' }), 'it');
        assert.deepEqual([run.state, run.error, run.attempt], ['FAILED', { code: 'X', message: 'm' }, 1]);
        const bare = must(await update(db.pool, await claimed(db.pool), 'error'), 'it');
        assert.deepEqual([bare.state, bare.error], ['FAILED', { code: '', message: '' }]);
      }),
    );

    void test(
      'retries after the delay that the worker names, or after the backoff of the stage',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const { id } = held.run;
        await update(db.pool, held, 'error', {
          retryable: true,
          retryDelayMs: 12_345,
          checkpoint: { at: 7 },
        });
        const row = await look(db.pool, id);
        assert.deepEqual([row['status'], row['attempt'], row['checkpoint']], ['new', 1, { at: 7 }]);
        between(row['wait_ms'], 12_300, 12_345, 'the own delay');
        assert.equal((await claim(db.pool, 'initialize')).length, 0, 'it is not due yet');

        // 1 s doubled for each attempt, less up to a fifth; then the longest delay.
        for (const [attempt, longest] of [
          [1, 1000],
          [2, 2000],
          [3, 4000],
          [50, 300_000],
        ] as const) {
          await db.pool.query('update baton.runs set schedule_time = null, attempt = $1, max_attempts = 99', [
            attempt - 1,
          ]);
          const again = await claimOne(db.pool);
          assert.equal(again.run.attempt, attempt);
          assert.deepEqual(again.run.checkpoint, { at: 7 }, 'the next attempt goes on from the checkpoint');
          await update(db.pool, again, 'error', { retryable: true });
          between((await look(db.pool, id))['wait_ms'], longest * 0.8 - 50, longest, `backoff ${attempt}`);
        }
      }),
    );

    void test(
      'fails a run whose attempts are used up, by the limit of the run or of the stage',
      fresh(open, async (db) => {
        for (const [maxAttempts, allowed] of [
          [0, 3],
          [2, 2],
          [1, 1],
        ] as const) {
          await create(db.pool, { maxAttempts });
          for (let attempt = 1; attempt <= allowed; attempt += 1) {
            const held = await claimOne(db.pool);
            assert.deepEqual([held.run.attempt, held.run.maxAttempts], [attempt, allowed]);
            const run = await update(db.pool, held, 'error', { retryable: true, retryDelayMs: 0 });
            assert.equal(run?.state, attempt < allowed ? 'PENDING' : 'FAILED');
          }
        }
      }),
    );

    void test(
      'cancels, hands back without an attempt, and reports progress',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const back = must(await update(db.pool, held, 'new', { checkpoint: { c: 1 } }), 'an update');
        assert.deepEqual([back.state, back.attempt], ['PENDING', 0]);
        const again = await claimOne(db.pool);
        assert.equal(again.run.attempt, 1);
        const fields = { progress: 0.5, statusMessage: 'half', output: { o: 1 }, checkpoint: { c: 2 } };
        const going = must(await update(db.pool, again, 'initializing', fields), 'an update');
        assert.deepEqual(
          [going.state, going.progress, going.statusMessage, going.attempt],
          ['ACTIVE', 0.5, 'half', 1],
        );
        const stored = must(await getRun(db.pool, going.id), 'the run');
        assert.deepEqual([stored.output, stored.checkpoint], [{ o: 1 }, { c: 2 }]);
        const same = must(await update(db.pool, again, 'initializing'), 'an update');
        assert.deepEqual([same.progress, same.statusMessage], [0.5, 'half'], 'what is left out stays');
        const canceled = must(await update(db.pool, again, 'canceled'), 'an update');
        assert.deepEqual([canceled.state, canceled.leaseExpireTime], ['CANCELED', undefined]);
      }),
    );

    void test(
      'renews the lease with progress and never shortens it',
      fresh(open, async (db) => {
        await create(db.pool, {});
        const held = await claimOne(db.pool, 'initialize', { leaseMs: 10_000 });
        const { id } = held.run;
        const setLeft = (seconds: number): Promise<unknown> =>
          db.pool.query(
            `update baton.runs set lease_expire_time = clock_timestamp() + $1 * interval '1 second'`,
            [seconds],
          );
        await setLeft(2);
        await update(db.pool, held, 'initializing');
        between((await look(db.pool, id))['lease_left_ms'], 9000, 10_000, 'a renewed lease');
        await setLeft(100);
        await update(db.pool, held, 'initializing');
        between((await look(db.pool, id))['lease_left_ms'], 99_000, 100_000, 'a longer lease');
      }),
    );

    void test(
      'touches nothing under a token that does not fit or has ended, nor by a status that is not allowed',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const { id } = held.run;
        const { number, id: leaseId } = held.lease;
        const strangers = [
          { number: number + 1n, id: leaseId },
          { number: number - 1n, id: leaseId },
          { number, id: '00000000-0000-4000-8000-000000000000' },
        ];
        for (const lease of strangers)
          assert.equal(await update(db.pool, { ...held, lease }, 'initialized'), undefined);
        for (const status of ['running', 'success', 'nonsense', ''])
          assert.equal(await update(db.pool, held, status), undefined, status);
        // An error goes with a failure only; an output with no cancel and no hand back.
        for (const status of ['initialized', 'initializing', 'new', 'canceled'])
          assert.equal(await update(db.pool, held, status, { errorCode: '' }), undefined, status);
        for (const status of ['new', 'canceled'])
          assert.equal(await update(db.pool, held, status, { output: {} }), undefined, status);
        await endLease(db.pool, id);
        assert.equal(await update(db.pool, held, 'initialized'), undefined);
        assert.equal(await isLeaseLive(db.pool, id, held.lease), false);
        assert.equal((await look(db.pool, id))['version'], 2n);
      }),
    );

    void test(
      'decides every item of a batch by itself, and answers in order',
      fresh(open, async (db) => {
        await create(db.pool, {}, {}, {}, {});
        const [a, b, c, d] = await claim(db.pool, 'initialize', 4);
        const at = (held: Held | undefined): Held => must(held, 'a claim');
        const runs = await updateRuns(db.pool, [
          report(at(d), 'initialized'),
          report({ ...at(a), lease: at(b).lease }, 'initialized'),
          report(at(c), 'error', { errorCode: 'E' }),
          report(at(b), 'nonsense'),
          report(at(a), 'initializing', { progress: 0.1 }),
        ]);
        assert.deepEqual(
          runs.map((run) => run && [run.id, run.status]),
          [
            [at(d).run.id, 'initialized'],
            undefined,
            [at(c).run.id, 'error'],
            undefined,
            [at(a).run.id, 'initializing'],
          ],
        );
        assert.deepEqual(await updateRuns(db.pool, []), []);
      }),
    );

    void test(
      'batches of the same runs in opposite order do not wait for each other in a circle',
      fresh(open, async (db) => {
        await create(db.pool, ...Array.from({ length: 100 }, () => ({})));
        const held = await claim(db.pool, 'initialize', 100);
        const batch = held.map((item) => report(item, 'initializing', { progress: 0.5 }));
        const rounds = Array.from({ length: 20 }, (_, n) =>
          updateRuns(db.pool, n % 2 === 0 ? batch : [...batch].reverse()),
        );
        for (const runs of await Promise.all(rounds)) assert.ok(runs.every((run) => run !== undefined));
      }),
    );

    void test(
      'a run whose cancel was requested does not wait again',
      fresh(open, async (db) => {
        const ways: readonly (readonly [string, UpdateFields, string])[] = [
          ['new', {}, 'CANCELED'],
          ['initialized', { output: { done: true } }, 'CANCELED'],
          ['error', { retryable: true }, 'FAILED'],
          ['initializing', {}, 'ACTIVE'],
        ];
        for (const [status, fields, state] of ways) {
          const held = await claimed(db.pool);
          await db.pool.query('update baton.runs set cancel_requested = true where id = $1', [held.run.id]);
          assert.equal((await update(db.pool, held, status, fields))?.state, state, status);
        }
        const last = await claimed(db.pool, 'run');
        await db.pool.query('update baton.runs set cancel_requested = true where id = $1', [last.run.id]);
        assert.equal((await update(db.pool, last, 'success'))?.state, 'SUCCEEDED', 'what is done is done');
      }),
    );

    for (const status of ['new', 'initialized', 'error']) {
      void test(
        `the same holds for a request that is committed while the report of ${status} waits for the row`,
        fresh(open, async (db) => {
          const held = await claimed(db.pool);
          const canceler = await db.connect();
          await canceler.query('begin');
          await canceler.query('update baton.runs set cancel_requested = true');
          const updated = update(db.pool, held, status, { retryable: status === 'error' });
          await waitFor(async () => (await waitingForLock(db.pool)).length === 1, 'the report to wait');
          await canceler.query('commit');
          const run = must(await within(updated, 'the report'), 'an update');
          assert.equal(run.cancelRequested, true);
          assert.notEqual(run.state, 'PENDING');
        }),
      );
    }
  });

  void describe('the end of a lease', () => {
    void test(
      'findLeaseEnd gives the change that ended it, with what the worker sent',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const find = () => findLeaseEnd(db.pool, held.run.id, held.lease);
        assert.equal(await find(), undefined, 'it lives');
        await update(db.pool, held, 'initializing', { output: { n: 1 } });
        assert.equal(await find(), undefined, 'it still lives');
        await update(db.pool, held, 'initialized', { output: { n: 2 } });
        const later = await claimOne(db.pool, 'run');
        await update(db.pool, later, 'success', { output: { n: 3 } });
        const end = must(await find(), 'the end');
        assert.deepEqual(
          [end.type, end.run.status, end.run.output],
          ['STAGE_COMPLETED', 'initialized', { n: 2 }],
        );
        const stranger = { number: 1n, id: '00000000-0000-4000-8000-000000000000' };
        assert.equal(await findLeaseEnd(db.pool, held.run.id, stranger), undefined);
      }),
    );

    const reports: readonly (readonly [status: string, fields: UpdateFields])[] = [
      ['initialized', { output: { n: 1 } }],
      ['error', { errorCode: 'E', errorMessage: 'm' }],
      ['error', { errorCode: 'E', errorMessage: 'm', retryable: true }],
      ['new', {}],
      ['canceled', {}],
    ];
    for (const [index, [status, fields]] of reports.entries()) {
      for (const before of ['', ' although the attempt before lost its lease']) {
        void test(
          `a repeated report is known again: ${status}${index === 2 ? ', retryable' : ''}${before}`,
          fresh(open, async (db) => {
            let held = await claimed(db.pool);
            if (before !== '') {
              await endLease(db.pool, held.run.id);
              assert.equal(await expireLeases(db.pool, 10), 1);
              await db.pool.query('update baton.runs set schedule_time = null');
              held = await claimOne(db.pool);
            }
            assert.ok(await update(db.pool, held, status, fields));
            assert.equal(await update(db.pool, held, status, fields), undefined);
            const end = must(await findLeaseEnd(db.pool, held.run.id, held.lease), 'the end of the lease');
            const error =
              fields.errorCode === undefined
                ? undefined
                : { code: fields.errorCode, message: fields.errorMessage ?? '' };
            assert.equal(endedBy(end, { status, output: fields.output, error }, CI), true);
          }),
        );
      }
    }

    void test(
      'releaseClaims hands back what is still held, and the claim costs no attempt',
      fresh(open, async (db) => {
        await create(db.pool, {}, {});
        const [a, b] = await claim(db.pool, 'initialize', 2);
        const [first, second] = [must(a, 'a claim'), must(b, 'a claim')];
        await update(db.pool, second, 'initialized');
        const leases = [first, second].map(({ run, lease }) => ({ runId: run.id, lease }));
        assert.equal(await releaseClaims(db.pool, leases), 1);
        assert.equal(await releaseClaims(db.pool, leases), 0);
        const row = await look(db.pool, first.run.id);
        assert.deepEqual([row['status'], row['attempt'], row['lease_id']], ['new', 0, null]);
        assert.equal((await look(db.pool, second.run.id))['status'], 'initialized');
        assert.equal((await claimOne(db.pool)).lease.number, 2n);
      }),
    );

    void test(
      'releaseClaims leaves what a repeat was given again; a later lease is handed back as ever',
      fresh(open, async (db) => {
        const key = { requestId: 'q', workerId: 'w', pipeline: 'ci', stage: 'initialize' };
        const [run] = await create(db.pool, {});
        const held = await claimOne(db.pool, 'initialize', { requestId: 'q' });
        const [repeated, other] = await findClaims(db.pool, [key, { ...key, workerId: 'x' }]);
        assert.deepEqual([repeated?.map((again) => again.run.id), other], [[held.run.id], []]);
        assert.equal(repeated?.[0]?.run.version, held.run.version, 'no change of the run');
        assert.equal(await releaseClaims(db.pool, [{ runId: held.run.id, lease: held.lease }]), 0);
        assert.ok(await update(db.pool, held, 'new'));
        const next = await claimOne(db.pool, 'initialize', { requestId: 'q' });
        assert.equal(next.run.id, run?.id);
        assert.equal(await releaseClaims(db.pool, [{ runId: next.run.id, lease: next.lease }]), 1);
      }),
    );

    void test(
      'what is handed back or given again is locked in order of id, so that nobody waits in a circle',
      fresh(open, async (db) => {
        const key = { requestId: 'q', workerId: 'w', pipeline: 'ci', stage: 'initialize' };
        for (const takes of ['releaseClaims', 'findClaims'] as const) {
          // In claim order the second one comes first.
          const [low, high] = await create(db.pool, {}, { priority: 9 });
          const held = await claim(db.pool, 'initialize', 2, { requestId: 'q' });
          assert.deepEqual(heldIds(held), [high?.id, low?.id]);
          const other = await db.connect();
          const lock = (run: Run | undefined) =>
            other.query('select from baton.runs where id = $1 for update', [must(run, 'a run').id]);
          await other.query('begin');
          await lock(low);
          const taken =
            takes === 'findClaims'
              ? findClaims(db.pool, [key]).then(([claims = []]) => claims.length)
              : releaseClaims(
                  db.pool,
                  held.map(({ run, lease }) => ({ runId: run.id, lease })),
                );
          taken.catch(() => undefined);
          await waitFor(async () => (await waitingForLock(db.pool)).length > 0, `${takes} to wait`);
          await within(lock(high), 'the other transaction to have both');
          await other.query('commit');
          assert.equal(await within(taken, takes), 2);
          for (const one of held) await update(db.pool, one, 'canceled');
          await db.pool.query(`update baton.runs set status = 'canceled' where state = 'PENDING'`);
        }
      }),
    );

    void test(
      'findClaims waits for nobody where it is told so, and says what it has passed over',
      fresh(open, async (db) => {
        const keyOf = (requestId: string) => ({
          requestId,
          workerId: 'w',
          pipeline: 'ci',
          stage: 'initialize',
        });
        await create(db.pool, {}, {}, {});
        const first = await claimOne(db.pool, 'initialize', { requestId: 'q' });
        const second = await claimOne(db.pool, 'initialize', { requestId: 'p' });
        const other = await db.connect();
        await other.query('begin');
        await other.query('select from baton.runs where id = $1 for update', [first.run.id]);
        const keys = ['q', 'p', 'none'].map(keyOf);
        const [locked, free, none] = await within(findClaims(db.pool, keys, 'skip'), 'what is not locked');
        assert.deepEqual([locked, free?.map(({ run }) => run.id), none], [undefined, [second.run.id], []]);
        await other.query('rollback');
      }),
    );

    void test(
      'a lease that ends while its extension is being committed is lost to nobody',
      fresh(open, async (db) => {
        const key = { requestId: 'q', workerId: 'w', pipeline: 'ci', stage: 'initialize' };
        const news = { progress: undefined, statusMessage: undefined, checkpoint: undefined };
        const asks: Readonly<Record<string, (held: Held) => Promise<boolean>>> = {
          'extendLeases without news': async ({ run, lease }) =>
            (await extendLeases(db.pool, [{ ...news, runId: run.id, lease, leaseMs: 0 }]))[0] !== undefined,
          'extendLeases with news': async ({ run, lease }) =>
            (
              await extendLeases(db.pool, [{ ...news, progress: 0.5, runId: run.id, lease, leaseMs: 0 }])
            )[0] !== undefined,
          updateRuns: async (held) => (await update(db.pool, held, 'initializing')) !== undefined,
          findClaims: async () => (await findClaims(db.pool, [key]))[0]?.length === 1,
        };
        for (const [name, ask] of Object.entries(asks))
          for (const end of ['commit', 'rollback'] as const) {
            await create(db.pool, {});
            const held = await claimOne(db.pool, 'initialize', { requestId: 'q' });
            // What everybody sees is a lease that has ended; only the open transaction knows that it goes on.
            await endLease(db.pool, held.run.id);
            const other = await db.connect();
            await other.query('begin');
            await other.query(
              `update baton.runs set lease_expire_time = clock_timestamp() + interval '1 minute' where id = $1`,
              [held.run.id],
            );
            const answer = ask(held);
            answer.catch(() => undefined);
            await waitFor(async () => (await waitingForLock(db.pool)).length > 0, `${name} to wait`);
            await other.query(end);
            assert.equal(await within(answer, name), end === 'commit', `${name} after ${end}`);
            await db.pool.query(`update baton.runs set status = 'canceled' where id = $1`, [held.run.id]);
          }
      }),
    );

    void test(
      'a report that says what is already there renews the lease and is no change',
      fresh(open, async (db) => {
        await create(db.pool, {});
        const held = await claimOne(db.pool, 'initialize', { leaseMs: 5000 });
        const fields = { progress: 0.5, statusMessage: 'half', checkpoint: { at: 1 }, output: { o: 1 } };
        const first = must(await update(db.pool, held, 'initializing', fields), 'an update');
        const again = must(await update(db.pool, held, 'initializing', fields), 'an update');
        assert.equal(again.version, first.version);
        assert.ok(must(again.leaseExpireTime, 'a lease') > must(first.leaseExpireTime, 'a lease'));
        assert.equal((await readHead(db.pool)).revision, 3n);
        const more = must(await update(db.pool, held, 'initializing', { progress: 0.6 }), 'an update');
        assert.equal(more.version, first.version + 1n);
      }),
    );

    void test(
      'expireLeases retries with backoff, fails when no attempt is left, cancels what was to be canceled',
      fresh(open, async (db) => {
        await create(db.pool, { priority: 3 }, { priority: 2, maxAttempts: 1 }, { priority: 1 }, {});
        await db.pool.query('update baton.stages set backoff_initial_ms = 60000');
        const held = await claim(db.pool, 'initialize', 4);
        const [retry, fail, cancel, live] = heldIds(held);
        await db.pool.query('update baton.runs set cancel_requested = true where id = $1', [cancel]);
        for (const id of [retry, fail, cancel]) await endLease(db.pool, must(id, 'an id'));
        assert.equal(await expireLeases(db.pool, 2), 2, 'no more than the limit');
        assert.equal(await expireLeases(db.pool, 2), 1);
        assert.equal(await expireLeases(db.pool, 2), 0);
        const states = await Promise.all(
          [retry, fail, cancel, live].map(async (id) => (await look(db.pool, must(id, 'an id')))['status']),
        );
        assert.deepEqual(states, ['new', 'error', 'canceled', 'initializing']);
        const row = await look(db.pool, must(retry, 'an id'));
        // 48 to 60 s, of which the second is over that the lease has been over.
        between(row['wait_ms'], 40_000, 59_000, 'what is left of the backoff');
        assert.deepEqual(
          [row['error_code'], row['error_message'], row['attempt'], row['lease_id']],
          ['LEASE_EXPIRED', `the lease of worker 'w' ended without a report (attempt 1 of 3)`, 1, null],
        );
        for (const item of held.slice(0, 3))
          assert.equal(await update(db.pool, item, 'initialized'), undefined, 'the old token is worthless');
      }),
    );

    void test(
      'a backoff counts from the end of the lease, and no run is claimable before that was found out',
      fresh(open, async (db) => {
        await db.pool.query('update baton.stages set backoff_initial_ms = 60000, backoff_jitter = 0');
        await create(db.pool, {}, {}, {});
        const [recent, old, wrong] = heldIds(await claim(db.pool, 'initialize', 3));
        const end = async (id: string | undefined, at: string): Promise<string> => {
          const [row] = await db.pool.query<{ at: string }>(
            `update baton.runs set lease_expire_time = ${at} where id = $1 returning lease_expire_time::text as at`,
            [id],
          );
          return must(row, 'a run').at;
        };
        const ended = await end(recent, `clock_timestamp() - interval '20 seconds'`);
        await end(old, `clock_timestamp() - interval '1 hour'`);
        await end(wrong, `'-infinity'`);
        assert.equal(await expireLeases(db.pool, 10), 3);
        const rows = await db.pool.query<{ id: string; by_lease: boolean; by_now: boolean }>(
          `select id, claimable_time = $1::text::timestamptz + interval '60 seconds' as by_lease,
             claimable_time = update_time as by_now
           from baton.runs order by id`,
          [ended],
        );
        assert.deepEqual(rows, [
          { id: recent, by_lease: true, by_now: false },
          { id: old, by_lease: false, by_now: true },
          { id: wrong, by_lease: false, by_now: true },
        ]);
        assert.deepEqual(heldIds(await claim(db.pool, 'initialize', 3)).toSorted(), [old, wrong]);
      }),
    );

    void test(
      'servers that end leases at once share them, and none is ended twice',
      fresh(open, async (db) => {
        await create(db.pool, ...Array.from({ length: 200 }, () => ({})));
        await claim(db.pool, 'initialize', 200);
        await db.pool.query(`update baton.runs set lease_expire_time = clock_timestamp()`);
        const counts = await Promise.all(Array.from({ length: 8 }, () => expireLeases(db.pool, 50)));
        let total = counts.reduce((sum, count) => sum + count, 0);
        // What one has in hand is passed over by the others, so somebody has to look once more.
        for (let more = 1; more > 0; total += more) more = await expireLeases(db.pool, 50);
        assert.equal(total, 200);
        const [row] = await db.pool.query('select min(version) as low, max(version) as high from baton.runs');
        assert.deepEqual(row, { low: 3n, high: 3n });
      }),
    );

    void test(
      'a report and the end of its lease at once: one of them is in time',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        const extender = await db.connect();
        await endLease(db.pool, held.run.id);
        await extender.query('begin');
        await extender.query(`update baton.runs set lease_expire_time = now() + interval '1 hour'`);
        assert.equal(await within(expireLeases(db.pool, 10), 'the sweep'), 0, 'a row in hand is passed over');
        await extender.query('commit');
        assert.equal(await expireLeases(db.pool, 10), 0);
        assert.ok(await update(db.pool, held, 'initialized'));
      }),
    );
  });

  void describe('putPipeline', () => {
    const two = [stage('fetch'), stage('make')];

    void test(
      'writes, replaces and reads back a definition',
      fresh(open, async (db) => {
        const wanted = definition([
          stage('fetch', { leaseMs: 5000, backoff: { initialMs: 7, multiplier: 1.5, maxMs: 9, jitter: 0 } }),
          stage('make'),
        ]);
        assert.deepEqual(await db.pool.transaction((tx) => putPipeline(tx, wanted)), []);
        await db.pool.query(`update baton.stages set paused = true where name = 'make'`);
        await db.pool.transaction((tx) => putPipeline(tx, { ...wanted, description: 'again' }));
        const stored = must(await getPipeline(db.pool, 'build'), 'the pipeline');
        assert.deepEqual(
          [
            stored.generation,
            stored.description,
            stored.stages.map(({ waitingStatus, paused }) => [waitingStatus, paused]),
          ],
          [
            2n,
            'again',
            [
              ['new', false],
              ['fetched', true],
            ],
          ],
        );
        const { waitingStatus: _, paused: __, ...first } = must(stored.stages[0], 'a stage');
        assert.deepEqual(first, wanted.stages[0]);
        const page = async (after: string, bytes: number): Promise<unknown> => {
          const { pipelines, isCut } = await listPipelines(db.pool, after, 10, bytes);
          return [pipelines.map(({ name }) => name), isCut];
        };
        assert.deepEqual(await page('', 1e6), [['build', 'ci'], false]);
        assert.deepEqual(await page('build', 1e6), [['ci'], false]);
        assert.deepEqual(await page('', 1), [['build'], true]);
        assert.deepEqual(await getPipelineNames(db.pool, ['ci', 'nope']), ['ci']);
        assert.equal(await getPipeline(db.pool, 'nope'), undefined);
      }),
    );

    void test(
      'names the statuses that open runs are in and the new definition lacks',
      fresh(open, async (db) => {
        await db.pool.transaction((tx) => putPipeline(tx, definition(two)));
        await create(db.pool, { pipeline: 'build' }, { pipeline: 'build' }, { pipeline: 'build' });
        await db.pool.query(
          `update baton.runs set status = 'fetched' where id = (select max(id::text)::uuid from baton.runs)`,
        );
        await assert.rejects(
          db.pool.transaction(async (tx) => {
            const stranded = await putPipeline(tx, { ...definition([stage('cook')]), initialStatus: 'raw' });
            assert.deepEqual(stranded, [
              { status: 'fetched', runs: 1 },
              { status: 'new', runs: 2 },
            ]);
            throw new Error('rolled back');
          }),
          /rolled back/,
        );
      }),
    );

    void test(
      'moves waiting runs to the stage that their status now stands for',
      fresh(open, async (db) => {
        await db.pool.transaction((tx) => putPipeline(tx, definition(two)));
        const [run] = await create(db.pool, { pipeline: 'build' });
        await db.pool.transaction((tx) => putPipeline(tx, definition([stage('check'), ...two])));
        const moved = must(await getRun(db.pool, must(run, 'a run').id), 'the run');
        assert.deepEqual(
          [moved.status, moved.stage, moved.state, moved.version],
          ['new', 'check', 'PENDING', 2n],
        );
      }),
    );

    void test(
      'leaves a run in hand with its worker when its stage gets another name',
      fresh(open, async (db) => {
        await db.pool.transaction((tx) => putPipeline(tx, definition(two)));
        await create(db.pool, { pipeline: 'build' });
        const { claims } = await claimRuns(db.pool, {
          pipeline: 'build',
          stage: 'fetch',
          slots: [{ workerId: 'w', leaseMs: 0, maxRuns: 1 }],
        });
        const got = must(claims[0]?.[0], 'a claim');
        const renamed = stage('download', { processingStatus: 'fetching', doneStatus: 'fetched' });
        await db.pool.transaction((tx) => putPipeline(tx, definition([renamed, stage('make')])));
        const row = await look(db.pool, got.run.id);
        assert.deepEqual([row['stage'], row['state'], row['worker_id']], ['download', 'ACTIVE', 'w']);
        assert.notEqual(row['lease_id'], null, 'without a lease nobody would ever look for this run again');
        const held = { run: got.run, lease: must(decodeLeaseToken(got.leaseToken), 'a token') };
        assert.equal((await update(db.pool, held, 'fetched'))?.stage, 'make');
      }),
    );

    void test(
      'does not strand a run that another transaction inserts at the same time',
      fresh(open, async (db) => {
        await db.pool.transaction((tx) => putPipeline(tx, definition(two)));
        const writer = await db.connect();
        await writer.query('begin');
        await writer.query(`insert into baton.runs (pipeline) values ('build')`);
        const put = db.pool.transaction((tx) => putPipeline(tx, definition([stage('check'), ...two])));
        const stood = await Promise.race([
          put.then(() => false),
          waitFor(async () => (await waitingForLock(db.pool)).length > 0, 'the definition to wait').then(
            () => true,
          ),
        ]);
        const commit = writer.query('commit').catch((error: unknown) => error);
        await within(Promise.all([commit, put]), 'both');
        const [row] = await db.pool.query<{ stranded: number }>(
          `select count(*)::int as stranded from baton.runs r
           where r.state = 'PENDING' and not exists (
             select from baton.stages s where s.pipeline = r.pipeline and s.name = r.stage and s.waiting_status = r.status)`,
        );
        assert.equal(
          row?.stranded,
          0,
          `nobody can claim it (the definition ${stood ? 'waited' : 'did not wait'})`,
        );
      }),
    );

    void test(
      'and a batch of reports do not wait for each other in a circle',
      fresh(open, async (db) => {
        await create(db.pool, {}, {});
        const [a, b] = await claim(db.pool, 'initialize', 2);
        const [first, second] = [must(a, 'a claim'), must(b, 'a claim')];
        // The row of the lower id now lies behind the other one in the table.
        await update(db.pool, first, 'initializing');
        const keeper = await db.connect();
        await keeper.query('begin');
        await keeper.query('select from baton.runs where id = $1 for update', [first.run.id]);
        const reports = updateRuns(
          db.pool,
          [first, second].map((held) => report(held, 'initializing', { progress: 0.5 })),
        );
        await waitFor(async () => (await waitingForLock(db.pool)).length === 1, 'the reports to wait');
        const renamed = { ...CI, stages: CI.stages.map((item) => ({ ...item, name: `${item.name}-2` })) };
        const put = db.pool.transaction((tx) => putPipeline(tx, renamed));
        await waitFor(async () => (await waitingForLock(db.pool)).length === 2, 'the definition to wait');
        await keeper.query('commit');
        const ended = await within(Promise.allSettled([reports, put]), 'both');
        assert.deepEqual(
          ended.map(({ status }) => status),
          ['fulfilled', 'fulfilled'],
        );
      }),
    );
  });

  void describe('listRuns', () => {
    const list = async (db: Queryable, filter: Partial<RunFilter>, limit = 100): Promise<string[]> =>
      ids((await listRuns(db, { ...MATCH_ALL, ...filter }, undefined, limit)).runs);

    void test(
      'filters by everything that is set, and pages from the newest',
      fresh(open, async (db) => {
        await db.pool.transaction((tx) => putPipeline(tx, definition([stage('fetch')])));
        const [a, b, c, d] = ids(
          await create(
            db.pool,
            { repository: 'x', labels: { k: 'v', l: 'w' } },
            { repository: 'y', labels: { k: 'v' } },
            { pipeline: 'build' },
            {},
          ),
        );
        await db.pool.query(`update baton.runs set status = 'initialized' where id = $1`, [b]);
        assert.deepEqual(await list(db.pool, {}), [d, c, b, a]);
        assert.deepEqual(await list(db.pool, { runIds: [must(a, 'a'), must(d, 'd')] }), [d, a]);
        assert.deepEqual(await list(db.pool, { pipelines: ['build'] }), [c]);
        assert.deepEqual(await list(db.pool, { stages: ['run', 'fetch'] }), [c, b]);
        assert.deepEqual(await list(db.pool, { statuses: ['initialized'] }), [b]);
        assert.deepEqual(await list(db.pool, { states: ['ACTIVE'] }), []);
        assert.deepEqual(await list(db.pool, { states: ['PENDING'], repository: 'x' }), [a]);
        assert.deepEqual(await list(db.pool, { labels: { k: 'v' } }), [b, a]);
        assert.deepEqual(await list(db.pool, { labels: { k: 'v', l: 'w' } }), [a]);
        assert.deepEqual(await list(db.pool, { labels: { k: 'other' } }), []);
        const second = await listRuns(db.pool, MATCH_ALL, c, 1);
        assert.deepEqual(ids(second.runs), [b]);
        assert.deepEqual(ids((await listRuns(db.pool, MATCH_ALL, a, 1)).runs), []);
      }),
    );

    void test(
      'gives the head of the log in the same snapshot, also when nothing matches',
      fresh(open, async (db) => {
        const empty = await listRuns(db.pool, MATCH_ALL, undefined, 10);
        assert.deepEqual([empty.runs, empty.revision], [[], 0n]);
        const head = await readHead(db.pool);
        assert.equal(empty.epoch, head.epoch);
        const done = new AbortController();
        const write = async (): Promise<void> => {
          for (let n = 0; n < 150; n += 1) await create(db.pool, {});
        };
        const writers = Promise.all([write(), write(), write()]).finally(() => done.abort());
        while (!done.signal.aborted) {
          const page = await listRuns(db.pool, MATCH_ALL, undefined, 1000);
          // Only creations here, and no rollbacks: the head counts the runs.
          assert.equal(page.revision, BigInt(page.runs.length));
        }
        await writers;
        assert.equal(
          (await listRuns(db.pool, { ...MATCH_ALL, statuses: ['error'] }, undefined, 1)).revision,
          450n,
        );
      }),
    );
  });

  void describe('reading the log', () => {
    void test(
      'readEvents pages by revision, and cuts a page short by its payload',
      fresh(open, async (db) => {
        const text = 'x'.repeat(1000);
        await create(db.pool, { input: { text } }, { input: { text } }, { input: { text } });
        const page = async (payloadBytes: number | undefined, after = 0n) =>
          (await readEvents(db.pool, { after, limit: 10, payloadBytes })).events;
        assert.equal((await page(undefined)).length, 3);
        assert.ok((await page(undefined)).every(({ run }) => run.input === undefined));
        assert.equal((await page(1)).length, 1, 'at least one event');
        assert.equal((await page(1500)).length, 2);
        assert.deepEqual(
          (await page(1e6)).map(({ run }) => run.input),
          Array.from({ length: 3 }, () => ({ text })),
        );
        assert.deepEqual(
          (await page(1e6, 1n)).map(({ revision }) => revision),
          [2n, 3n],
        );
        assert.deepEqual(await page(1e6, 3n), []);
        await db.pool.query(`update baton.runs set status = 'canceled'`);
        await db.pool.query('delete from baton.runs');
        const [gone] = await page(1e6);
        assert.equal(gone?.run.input, undefined, 'the input goes with its run');
      }),
    );

    void test(
      'readEvents is as fresh across the partitions of the log',
      fresh(open, async (db) => {
        await db.pool.query(`select setval('baton.revision', 999998)`);
        await create(db.pool, {}, {}, {});
        const { events } = await readEvents(db.pool, { after: 0n, limit: 10, payloadBytes: undefined });
        assert.deepEqual(
          events.map(({ revision }) => revision),
          [999_999n, 1_000_000n, 1_000_001n],
        );
        assert.equal((await readHead(db.pool)).revision, 1_000_001n);
      }),
    );

    void test(
      'listRunEvents is the whole history of one run with its payload',
      fresh(open, async (db) => {
        const held = await claimed(db.pool);
        await update(db.pool, held, 'initialized', { output: { n: 1 } });
        const { id } = held.run;
        const { events, isCut } = await listRunEvents(db.pool, id, 0n, 10, 1e6);
        assert.equal(isCut, false);
        assert.deepEqual(
          events.map(({ type, run }) => [type, run.version, run.output]),
          [
            ['CREATED', 1n, undefined],
            ['CLAIMED', 2n, undefined],
            ['STAGE_COMPLETED', 3n, { n: 1 }],
          ],
        );
        assert.deepEqual(
          (await listRunEvents(db.pool, id, 1n, 1, 1e6)).events.map(({ type }) => type),
          ['CLAIMED'],
        );
        const cut = await listRunEvents(db.pool, id, 1n, 10, 1);
        assert.deepEqual([cut.events.length, cut.isCut], [2, false], 'the first has no payload');
        const bare = await listRunEvents(db.pool, id, 0n, 10);
        assert.ok(bare.events.length === 3 && bare.events.every(({ run }) => run.output === undefined));
      }),
    );

    void test(
      'readNewWork counts what began to wait in which stage',
      fresh(open, async (db) => {
        assert.deepEqual(await readNewWork(db.pool, 0n), { through: 0n, work: [] });
        const created = await create(db.pool, {}, {}, {});
        const handedOn = await update(db.pool, await claimOne(db.pool), 'initialized');
        const { through, work } = await readNewWork(db.pool, 0n);
        assert.equal(through, 5n);
        assert.deepEqual(
          [...work]
            .sort((a, b) => b.runs - a.runs)
            .map((found) => ({ ...found, changes: [...found.changes].sort() })),
          [
            {
              pipeline: 'ci',
              stage: 'initialize',
              runs: 3,
              freed: 1,
              changes: created.map(changeKey).sort(),
            },
            {
              pipeline: 'ci',
              stage: 'run',
              runs: 1,
              freed: 0,
              changes: [changeKey(must(handedOn, 'the run'))],
            },
          ],
        );
        await claimOne(db.pool);
        assert.deepEqual(await readNewWork(db.pool, 5n), { through: 6n, work: [] });
        await create(db.pool, ...Array.from({ length: 257 }, () => ({})));
        const many = await readNewWork(db.pool, 6n);
        assert.deepEqual(many.work, [
          { pipeline: 'ci', stage: 'initialize', runs: 257, freed: 0, changes: [] },
        ]);
      }),
    );

    void test(
      'findDueStages knows what can be claimed now and what comes next, by the clock of the database',
      fresh(open, async (db) => {
        const keys = [
          { pipeline: 'ci', stage: 'initialize' },
          { pipeline: 'ci', stage: 'run' },
          { pipeline: 'nope', stage: 'run' },
        ];
        const nothing = { due: [], nextMs: undefined };
        assert.deepEqual(await findDueStages(db.pool, keys), nothing);
        const [run] = await create(db.pool, { priority: 3 }, { priority: 3 }, { priority: 5 });
        await db.pool.query(
          `update baton.runs set schedule_time = clock_timestamp() + interval '30 minutes' * priority`,
        );
        const later = await findDueStages(db.pool, keys);
        assert.deepEqual(later.due, []);
        between(later.nextMs, 5_390_000, 5_400_000, 'the time to the next run');
        await db.pool.query('update baton.runs set schedule_time = null where id = $1', [run?.id]);
        const now = await findDueStages(db.pool, keys);
        assert.deepEqual(now.due, [keys[0]]);
        between(now.nextMs, 5_390_000, 5_400_000, 'the time to the next run, behind one that is due');
        await db.pool.query(
          `update baton.runs set claimable_time = 'infinity' where schedule_time is not null`,
        );
        assert.deepEqual(await findDueStages(db.pool, keys), { due: [keys[0]], nextMs: Infinity });
        await db.pool.query('update baton.runs set schedule_time = null');
        assert.deepEqual(await findDueStages(db.pool, keys), { due: [keys[0]], nextMs: undefined });
        assert.deepEqual(await findDueStages(db.pool, []), nothing);
      }),
    );
  });

  void describe('createRuns', () => {
    void test(
      'keeps the order given, and every field',
      fresh(open, async (db) => {
        const runs = Array.from({ length: 50 }, (_, n) => newRun({ repository: String(n) }));
        const all = await createRuns(db.pool, runs);
        const given = runs.map((run) => must(all.get(run), 'a run').id);
        assert.deepEqual([...given].toSorted(), given);
        assert.deepEqual(heldIds(await claim(db.pool, 'initialize', 50)), given);
        const full = newRun({
          repository: 'r',
          labels: { 'a"b': `c'd` },
          input: { deep: [{ x: null }], text: 'ü\n' },
          priority: 9,
          scheduleTime: new Date('2030-01-02T03:04:05.678Z'),
          concurrencyKey: 'k',
          maxAttempts: 7,
          requestId: 'q',
          requestHash: Buffer.from([0, 255]),
          traceParent: 't',
        });
        const made = must((await createRuns(db.pool, [full])).get(full), 'the run');
        const { requestHash: _, input, ...fields } = full;
        assert.deepEqual({ ...made, ...fields }, made);
        assert.deepEqual(await getRun(db.pool, made.id), {
          ...made,
          input: JSON.parse(input ?? '') as unknown,
        });
        const found = await findRequests(db.pool, [full, newRun({ requestId: 'nope' })]);
        assert.deepEqual([...found], [['q', { run: made, same: true }]]);
      }),
    );

    void test(
      "takes the time of an id from the database, whatever this server's clock says",
      fresh(open, async (db) => {
        const { now } = Date;
        const created: string[] = [];
        try {
          // Servers whose clocks differ create by turns; the last runs are of plain SQL and of a schedule's statement.
          for (const skewMs of [0, 3_600_000, -3_600_000, 86_400_000, 0]) {
            Date.now = () => now() + skewMs;
            created.push(...(await create(db.pool, {}, {}, {})).map(({ id }) => id));
            await db.pool.query('select pg_sleep(0.002)');
          }
        } finally {
          Date.now = now;
        }
        const [row] = await db.pool.query<{ id: string }>(
          'insert into baton.runs default values returning id',
        );
        created.push(must(row, 'a row').id);
        assert.deepEqual([...created].toSorted(), created, 'ids are in the order of creation');
        const [apart] = await db.pool.query<{ ms: number }>(
          `select max(abs(extract(epoch from r.create_time) * 1000
            - ('x' || left(translate(r.id::text, '-', ''), 12))::bit(48)::bigint))::float8 as ms from baton.runs r`,
        );
        assert.ok(must(apart, 'a row').ms < 60_000, `the id is ${apart?.ms} ms from the time of creation`);
        assert.equal(new Set(created.map((id) => id.slice(14))).size, created.length);
      }),
    );

    void test(
      'leaves out a run whose request id is taken, also by a transaction that is still open',
      fresh(open, async (db) => {
        await create(db.pool, { requestId: 'a' });
        const [again, other] = [newRun({ requestId: 'a' }), newRun({ requestId: 'b' })];
        assert.deepEqual([...(await createRuns(db.pool, [again, other])).keys()], [other]);
        for (const end of ['commit', 'rollback']) {
          const client = await db.connect();
          await client.query('begin');
          await client.query(`insert into baton.runs (request_id) values ('${end}')`);
          const late = newRun({ requestId: end });
          const made = createRuns(db.pool, [late]);
          await waitFor(async () => (await waitingForLock(db.pool)).length === 1, 'the insert to wait');
          await client.query(end);
          assert.equal((await within(made, 'the insert')).has(late), end === 'rollback');
        }
      }),
    );

    void test(
      'leaves out a run of an unknown pipeline, and all of a batch that has to go together',
      fresh(open, async (db) => {
        const [known, unknown] = [newRun(), newRun({ pipeline: 'nope' })];
        assert.equal((await createRuns(db.pool, [known, unknown], true)).size, 0);
        assert.equal((await readHead(db.pool)).revision, 0n);
        assert.deepEqual([...(await createRuns(db.pool, [known, unknown])).keys()], [known]);
        assert.equal((await readHead(db.pool)).revision, 1n);
      }),
    );

    void test(
      'batches with the same request ids in opposite order do not wait for each other in a circle',
      fresh(open, async (db) => {
        const creates = new CreateRuns(db.pool, systemClock, () => undefined);
        for (let round = 0; round < 10; round += 1) {
          const requests = Array.from({ length: 300 }, (_, n) => `${round}/${n}`);
          const batch = (order: readonly string[]) =>
            creates.batchCreateRuns(
              order.map((requestId) => ({ ...REQUEST, requestId })),
              CALL,
            );
          const made = await Promise.all([batch(requests), batch([...requests].reverse())]);
          assert.equal(new Set(made.flat().map((run) => run.id)).size, 300);
        }
      }),
    );
  });

  void describe('what a statement looks at does not grow with the table', () => {
    const RUNS = 20_000;
    const CI_STAGES = CI.stages.map(({ name }) => ({ pipeline: 'ci', stage: name }));

    async function assertVisits(work: Promise<number>, most: number): Promise<void> {
      const rows = await work;
      assert.ok(rows <= most, `${rows} rows of ${RUNS} were looked at, expected ${most} at most`);
    }

    void test(
      'a claim among many that wait',
      fresh(open, async (db) => {
        await bulkInsert(db.pool, RUNS);
        await assertVisits(
          rowsVisited(db.pool, (tx) => claim(tx, 'initialize', 100)),
          200,
        );
      }),
    );

    void test(
      'a claim behind many that are not due yet',
      fresh(open, async (db) => {
        await bulkInsert(db.pool, RUNS);
        await db.pool.query(
          `update baton.runs set priority = 9, schedule_time = clock_timestamp() + interval '1 hour'`,
        );
        await db.pool.query('vacuum analyze baton.runs');
        await create(db.pool, {});
        await assertVisits(
          rowsVisited(db.pool, (tx) => claim(tx, 'initialize')),
          10,
        );
      }),
    );

    void test(
      'the stages with due work, where one of them has none',
      fresh(open, async (db) => {
        await bulkInsert(db.pool, RUNS);
        await assertVisits(
          rowsVisited(db.pool, (tx) => findDueStages(tx, CI_STAGES)),
          10,
        );
        await db.pool.query(`update baton.runs set schedule_time = clock_timestamp() + interval '1 hour'`);
        await db.pool.query('vacuum analyze baton.runs');
        await assertVisits(
          rowsVisited(db.pool, (tx) => findDueStages(tx, CI_STAGES)),
          10,
        );
      }),
    );

    void test(
      'reports, where statistics know of no run at work',
      fresh(open, async (db) => {
        await bulkInsert(db.pool, RUNS);
        await db.pool.query('analyze baton.runs');
        const held: Held[] = [];
        for (let n = 0; n < 4; n += 1) held.push(...(await claim(db.pool, 'initialize', 1000)));
        const items = held.slice(0, 100);
        const reports = items.map((item) => report(item, 'initializing', { progress: 0.5 }));
        await assertVisits(
          rowsVisited(db.pool, (tx) => updateRuns(tx, reports)),
          300,
        );
        const extensions = items.map(({ run, lease }) => ({
          ...{ runId: run.id, lease, leaseMs: 0 },
          ...{ progress: undefined, statusMessage: undefined, checkpoint: undefined },
        }));
        await assertVisits(
          rowsVisited(db.pool, (tx) => extendLeases(tx, extensions)),
          300,
        );
      }),
    );

    void test(
      'ended leases and reports among many live leases',
      fresh(open, async (db) => {
        await bulkInsert(db.pool, RUNS);
        const held: Held[] = [];
        for (let n = 0; n < 4; n += 1) held.push(...(await claim(db.pool, 'initialize', 1000)));
        await db.pool.query('vacuum analyze baton.runs');
        for (const count of [1, 100]) {
          const reports = held.slice(0, count).map((item) => report(item, 'initializing'));
          await assertVisits(
            rowsVisited(db.pool, (tx) => updateRuns(tx, reports)),
            3 * count,
          );
        }
        await assertVisits(
          rowsVisited(db.pool, (tx) => expireLeases(tx, 500)),
          10,
        );
      }),
    );
  });
});
