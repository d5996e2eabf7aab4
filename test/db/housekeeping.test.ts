/** How long housekeeping pauses, and whom it wakes; see src/service/housekeeping.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock, type Clock, type Timer } from '../../src/base/clock.js';
import { ClaimAnswers } from '../../src/service/claim_answers.js';
import { Claims } from '../../src/service/claims.js';
import { Housekeeping } from '../../src/service/housekeeping.js';
import { NextRuns } from '../../src/service/next_runs.js';
import { OwnWork } from '../../src/watch/own_work.js';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { create, fresh } from '../support/log_runs.js';
import { Signal, waitFor, within } from '../support/wait.js';

const KEY = { pipeline: 'ci', stage: 'initialize' };
const SLOT = { workerId: 'w', leaseMs: 0, maxRuns: 1 };
const PATIENCE_MS = 20_000;

/** Real time; the first pause that anybody makes by it is told, and begins when the test lets it. The others never end. */
class ToldClock implements Clock {
  readonly pauseMs = new Signal<number>();
  readonly go = new Signal();
  #pauses = 0;
  now(): number {
    return systemClock.now();
  }
  after(delayMs: number, task: () => void): Timer {
    this.#pauses += 1;
    if (this.#pauses > 1) return { cancel: () => undefined };
    this.pauseMs.send(delayMs);
    const timer = this.go.promise.then(() => systemClock.after(delayMs, task));
    return { cancel: () => void timer.then((set) => set.cancel()) };
  }
}

describeOnEveryPostgres('housekeeping', (open) => {
  /** Calls that wait on a server that does nothing but housekeeping, which begins with what `schedule` leaves. */
  async function waiting(
    db: TestDatabase,
    schedule: () => Promise<unknown>,
    check: (pauseMs: number, answer: Promise<readonly string[]>, go: () => void) => Promise<void>,
    callers = 1,
  ): Promise<void> {
    const [clock, call] = [new ToldClock(), new AbortController()];
    const claims = new Claims({
      ...{ pool: db.pool, next: new NextRuns(systemClock), clock: systemClock },
      answers: new ClaimAnswers(db.pool, silent),
      ownWork: new OwnWork(),
      onWaiting: () => undefined,
      onUntold: () => undefined,
    });
    const calls = Array.from({ length: callers }, () =>
      claims.claim(KEY, SLOT, PATIENCE_MS, { signal: call.signal, onUndelivered: () => undefined }),
    );
    const answer = Promise.all(calls).then((given) => given.flat().map(({ run }) => run.id));
    answer.catch(() => undefined);
    const housekeeping = new Housekeeping({ db: db.pool, claims, clock, log: silent });
    try {
      await waitFor(() => claims.waiting === callers, 'the calls to wait');
      await schedule();
      housekeeping.start();
      const pauseMs = await within(clock.pauseMs.promise, 'the first pause');
      await check(pauseMs, answer, () => clock.go.send());
    } finally {
      clock.go.send();
      call.abort();
      await housekeeping.stop();
      await claims.stop();
    }
  }

  const many = (db: TestDatabase, ms: string) => (): Promise<unknown> =>
    db.pool.query(
      `insert into baton.runs (repository, schedule_time)
       select g::text, clock_timestamp() + ${ms} * interval '1 millisecond' from generate_series(1, 500) as g`,
    );

  /** Every run comes due so long from now. */
  const due = (db: TestDatabase, ms: number) => (): Promise<unknown> =>
    db.pool.query(
      `update baton.runs set schedule_time = clock_timestamp() + $1::int * interval '1 millisecond'`,
      [ms],
    );

  void test(
    'pauses for a second when nothing comes due within it',
    fresh(open, async (db) => {
      await waiting(db, many(db, '3600000'), (pauseMs) => Promise.resolve(assert.equal(pauseMs, 1000)));
    }),
  );

  void test(
    'a waiting call is woken when the next run of its stage comes due',
    fresh(open, async (db) => {
      const [run] = await create(db.pool, { scheduleTime: new Date(Date.now() + 3_600_000) });
      await waiting(db, due(db, 950), async (pauseMs, answer, go) => {
        assert.ok(pauseMs < 950, `a pause of ${pauseMs} ms`);
        go();
        assert.deepEqual(await within(answer, 'the run'), [run?.id]);
      });
    }),
  );

  void test(
    'one look is enough for all runs that come due together',
    fresh(open, async (db) => {
      const later = { scheduleTime: new Date(Date.now() + 3_600_000) };
      const runs = await create(db.pool, later, later, later);
      const check = async (_: number, answer: Promise<readonly string[]>, go: () => void): Promise<void> => {
        go();
        const ids = await within(answer, 'all three', 10_000);
        assert.deepEqual([...ids].sort(), runs.map(({ id }) => id).sort());
      };
      await waiting(db, due(db, 500), check, runs.length);
    }),
  );

  void test(
    'does not look again at once, though runs come due every few milliseconds',
    fresh(open, async (db) => {
      // Nothing is given out, so that the call still waits when the sweep looks for whom runs come due.
      await db.pool.query(`update baton.stages set paused = true where name = 'initialize'`);
      await waiting(db, many(db, '10 * g'), (pauseMs) => Promise.resolve(assert.equal(pauseMs, 200)));
    }),
  );
});
