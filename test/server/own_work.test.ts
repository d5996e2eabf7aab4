/** What a server has committed itself wakes whoever waits on it at once, and the log does not wake anybody for it again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WatchKind, type Claim, type ClaimNextResponse } from '../../gen/baton/v1/job_service_pb.js';
import { systemClock } from '../../src/base/clock.js';
import type { Run } from '../../src/run/run.js';
import { ClaimAnswers } from '../../src/service/claim_answers.js';
import { Claims } from '../../src/service/claims.js';
import { NextRuns } from '../../src/service/next_runs.js';
import { OwnWork } from '../../src/watch/own_work.js';
import { DeafClock, Rig } from '../support/chaos_rig.js';
import { claimStatements, countClaims, Waiters } from '../support/claim_waiters.js';
import { describeOnEveryPostgres, silent } from '../support/database.js';
import { create, fresh, must } from '../support/log_runs.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const KEY = { pipeline: 'ci', stage: 'initialize' };
const SLOT = { workerId: 'w', leaseMs: 0, maxRuns: 1 };
const WAIT_MS = 50_000;
const CALLERS = 100;
const SINGLES = 20;

void test('what is remembered is forgotten after a look that began later', () => {
  const own = new OwnWork();
  assert.ok(own.add({ id: 'a', version: 1n }) && own.add({ id: 'b', version: 1n }));
  const { told } = own;
  assert.ok(own.add({ id: 'b', version: 3n }));
  assert.deepEqual(
    ['a/1', 'b/1', 'b/3', 'c/1'].map((key) => own.has(key)),
    [true, true, true, false],
  );
  own.forget(told);
  assert.deepEqual(own.told, ['b/3']);
});

void test('a server that cannot look at the log remembers a bounded number', () => {
  const own = new OwnWork();
  let remembered = 0;
  while (own.add({ id: String(remembered), version: 1n })) remembered += 1;
  assert.equal(remembered, 10_000);
  own.forget(own.told);
  assert.ok(own.add({ id: 'next', version: 1n }));
});

/** A held claim, for the ways in which its worker lets the run wait again or makes room. */
interface Way {
  readonly stage?: string;
  readonly limited?: boolean;
  /** What is done before somebody waits. */
  readonly before?: (jobs: Jobs) => Promise<Claim>;
  readonly change: (jobs: Jobs, held: Claim) => Promise<unknown>;
}
type Jobs = TestServer['jobs'];

const LABELS = { of: 'test' };
const held = async (jobs: Jobs): Promise<Claim> => {
  await jobs.createRun({ labels: LABELS });
  return must((await jobs.claimNext({ stage: 'initialize' })).claims[0], 'a claim');
};
const ended = async (jobs: Jobs): Promise<Claim> => {
  const claim = await held(jobs);
  await jobs.updateStatus({ ...tokenOf(claim), status: 'error' });
  return claim;
};
const tokenOf = ({ run, leaseToken }: Claim) => ({ runId: must(run, 'a run').id, leaseToken });
const retryable = { error: { code: 'AGAIN', retryable: true, retryDelay: {} }, status: 'error' };

const WAYS: Readonly<Record<string, Way>> = {
  CreateRun: { change: (jobs) => jobs.createRun({}) },
  'CreateRun with a request_id': { change: (jobs) => jobs.createRun({ requestId: 'one' }) },
  BatchCreateRuns: { change: (jobs) => jobs.batchCreateRuns({ requests: [{}] }) },
  'BatchCreateRuns with a request_id': {
    change: (jobs) => jobs.batchCreateRuns({ requests: [{ requestId: 'two' }] }),
  },
  'a worker that hands back': {
    before: held,
    change: (jobs, claim) => jobs.updateStatus({ ...tokenOf(claim), status: 'new' }),
  },
  'one of several that are handed back': {
    before: held,
    change: (jobs, claim) => jobs.batchUpdateStatus({ requests: [{ ...tokenOf(claim), status: 'new' }] }),
  },
  'a failure that may be tried again at once': {
    before: held,
    change: (jobs, claim) => jobs.updateStatus({ ...tokenOf(claim), ...retryable }),
  },
  'a stage that is done': {
    stage: 'run',
    before: held,
    change: (jobs, claim) => jobs.updateStatus({ ...tokenOf(claim), status: 'initialized' }),
  },
  RetryRun: { before: ended, change: (jobs, claim) => jobs.retryRun({ runId: tokenOf(claim).runId }) },
  RetryRuns: { before: ended, change: (jobs) => jobs.retryRuns({ filter: { labels: LABELS } }) },
  'room in a stage with a limit': {
    limited: true,
    before: async (jobs) => {
      const claim = await held(jobs);
      await jobs.createRun({});
      return claim;
    },
    change: (jobs, claim) => jobs.updateStatus({ ...tokenOf(claim), status: 'initialized' }),
  },
};

describeOnEveryPostgres('work that a server made itself', (open) => {
  void test(
    'wakes whoever is parked without the log, and nobody for what is not due or waits elsewhere',
    fresh(open, async (db) => {
      const ownWork = new OwnWork();
      const claims = new Claims({
        ...{ pool: db.pool, next: new NextRuns(systemClock), clock: systemClock },
        answers: new ClaimAnswers(db.pool, silent),
        ...{ ownWork, onWaiting: () => undefined, onUntold: () => undefined },
      });
      const call = new AbortController();
      const delivery = { signal: call.signal, onUndelivered: () => undefined };
      const answer = claims.claim(KEY, SLOT, WAIT_MS, delivery);
      answer.catch(() => undefined);
      try {
        // It has looked and is parked when this one, which came after it, has its answer.
        assert.deepEqual(await claims.claim(KEY, SLOT, 0, delivery), []);
        const later = new Date(Date.now() + 3_600_000);
        const [run, delayed] = await create(db.pool, {}, { scheduleTime: later });
        const made = must(run, 'a run');
        const elsewhere: Run = { ...made, stage: 'run' };
        const canceled: Run = { ...made, state: 'CANCELED' };
        const failed: Run = { ...made, error: { code: 'NO', message: '' } };
        claims.committed([must(delayed, 'a delayed run'), elsewhere, canceled, failed]);
        assert.deepEqual(ownWork.told, []);
        claims.committed([made]);
        assert.deepEqual(ownWork.told, [`${made.id}/1`]);
        assert.deepEqual(
          (await within(answer, 'the run')).map((claim) => claim.run.id),
          [made.id],
        );
      } finally {
        call.abort();
        await claims.stop();
      }
    }),
  );

  for (const watched of [false, true]) {
    void test(`is not told by the log again, ${watched ? 'with' : 'without'} a live stream`, async () => {
      const db = await open();
      const rig = new Rig(db);
      try {
        rig.wantsWork = true;
        rig.tail.start();
        const reader = watched ? await (await rig.open(0n)).live() : undefined;
        rig.tail.ring();
        await waitFor(() => rig.hub.position !== undefined, 'the tail to have a position');
        // Every look has its answer before the runs are created, or begins when the own one is known.
        const gate = rig.gated.hold(/run_events/);
        rig.tail.ring();
        await within(gate.reached.promise, 'a look before');
        rig.work.length = 0;
        const [own, other] = await create(db.pool, {}, {});
        assert.ok(rig.ownWork.add(must(own, 'a run')) && other !== undefined);
        gate.open.send();
        rig.tail.ring();
        await waitFor(() => rig.work.length > 0, 'the tail to tell of the other');
        const runs = rig.work.flat().map((work) => work?.runs);
        assert.deepEqual(runs, [1], 'one of two');
        await waitFor(() => rig.ownWork.told.length === 0, 'the own one to be forgotten');
        if (reader !== undefined) await reader.hasEvents(2);
      } finally {
        await rig.stop();
        await db.drop();
      }
    });
  }

  for (const [name, { stage = 'initialize', limited = false, before, change }] of Object.entries(WAYS)) {
    void test(`wakes whoever waits, without a regular look at the log: ${name}`, async () => {
      const database = await open();
      const baton = await startTestServer(database.url, {}, new DeafClock());
      const { jobs } = baton;
      const call = new AbortController();
      const wait = (from: string): Promise<ClaimNextResponse> => {
        const answer = jobs.claimNext({ stage: from, wait: { seconds: 50n } }, { signal: call.signal });
        answer.catch(() => undefined);
        return answer;
      };
      try {
        if (limited)
          await database.pool.query(`update baton.stages set max_active = 1 where name = $1`, [stage]);
        const claim = await before?.(jobs);
        // The log is followed from the first call on that waits, and whoever waits then looks once more.
        void wait(stage === 'run' ? 'initialize' : 'run');
        const answer = wait(stage);
        await waitFor(() => baton.server.service.claims.waiting === 2, 'both to wait');
        for (let look = 0; look < 3; look += 1)
          assert.deepEqual((await jobs.claimNext({ stage })).claims, []);
        await change(jobs, claim as Claim);
        assert.equal((await within(answer, 'the run', 5000)).claims.length, 1);
      } finally {
        call.abort();
        await baton.stop();
        await database.drop();
      }
    });
  }

  void test('reaches a live stream without a regular look at the log', async () => {
    const database = await open();
    const baton = await startTestServer(database.url, {}, new DeafClock());
    const call = new AbortController();
    try {
      const stream = baton.jobs.watchRuns({}, { signal: call.signal })[Symbol.asyncIterator]();
      await within(stream.next(), 'OPENED', 5000);
      await waitFor(() => baton.server.service.hub.liveCount === 1, 'the stream to be live');
      const message = within(stream.next(), 'the change', 5000);
      await baton.jobs.createRun({});
      // Not a bookmark, which is read from the log as well.
      assert.equal((await message).value?.kind, WatchKind.EVENTS);
    } finally {
      call.abort();
      await baton.stop();
      await database.drop();
    }
  });

  void test('costs one statement a run, created or handed on from the stage before', async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    const sql = await database.connect();
    const host = new URL(baton.grpcUrl).host;
    const waiters = new Waiters(host, CALLERS, WAIT_MS);
    const next = new Waiters(host, CALLERS, WAIT_MS, 'run');
    try {
      await waitFor(() => baton.server.service.claims.waiting === 2 * CALLERS, 'all calls to wait');
      await countClaims(sql);
      const until = async (group: Waiters, answered: number): Promise<void> =>
        waitFor(() => group.answered === answered, `${answered} answers`);
      // Whoever has not looked yet does so before these are answered.
      await baton.jobs.createRun({});
      await until(waiters, 1);
      const hand = async (index: number): Promise<void> => {
        const { run, leaseToken } = must(waiters.claims[index], 'a claim');
        await baton.jobs.updateStatus({ runId: must(run, 'a run').id, leaseToken, status: 'initialized' });
      };
      await hand(0);
      await until(next, 1);
      const before = await claimStatements(sql);
      const startedAt = performance.now();
      for (let nth = 2; nth <= SINGLES + 1; nth += 1) {
        await baton.jobs.createRun({});
        await until(waiters, nth);
        await hand(nth - 1);
        await until(next, nth);
      }
      // A sweep once a second may look as well, and then whether there is more; the log may come first now and then.
      const seconds = Math.ceil((performance.now() - startedAt) / 1000);
      const statements = (await claimStatements(sql)) - before;
      const most = 2 * SINGLES * 1.25 + 4 * seconds;
      assert.ok(statements <= most, `${statements} statements for ${2 * SINGLES} claims in ${seconds} s`);
      assert.ok(statements >= 2 * SINGLES, 'the claims were counted');
    } finally {
      waiters.close();
      next.close();
      await baton.stop();
      await database.drop();
    }
  });
});
