/**
 * The hard parts of claims and leases, one at a time and without chance: each test here catches at least one of the
 * mutants in test/mutants/workers.ts, which `npm run mutants` shows.
 */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { createClient, type Client } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { JobService, type Claim } from '../../gen/baton/v1/job_service_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import { decodeLeaseToken, type LeaseKey } from '../../src/store/lease_token.js';
import { extendLeases } from '../../src/store/sql/extend_leases.js';
import { releaseClaims } from '../../src/store/sql/release_claims.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { waitingForLock } from '../support/log_runs.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const GATE = 43;
/** A claim of such a run stands still just before its commit, and before it takes a place in the log. */
const GATE_TRIGGER = `
create function baton.test_gate() returns trigger language plpgsql as $$
begin
  perform pg_advisory_lock_shared(${GATE});
  perform pg_advisory_unlock_shared(${GATE});
  return null;
end $$;
create constraint trigger aa_gate after update on baton.runs deferrable initially deferred
  for each row when (new.repository = 'gated' and new.state = 'ACTIVE') execute function baton.test_gate()`;

const HOUR_MS = 3_600_000;
/** Loaded before the program: its own clock is an hour ahead of everybody else's. */
const HOUR_AHEAD = `--import=data:text/javascript,${encodeURIComponent(`
  const Real = Date;
  globalThis.Date = class extends Real {
    constructor(...args) { super(...(args.length === 0 ? [Real.now() + ${HOUR_MS}] : args)); }
    static now() { return Real.now() + ${HOUR_MS}; }
  };`)}`;

describeOnEveryPostgres('what the worker mutants break', (open) => {
  let database: TestDatabase;
  let baton: TestServer;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await database.drop();
  });

  const create = async (
    fields: { repository?: string; pipeline?: string; priority?: number } = {},
  ): Promise<string> => (await baton.jobs.createRun(fields)).run?.id ?? '';

  const claim = async (leaseSeconds = 60n, jobs: Client<typeof JobService> = baton.jobs): Promise<Claim> => {
    const request = { stage: 'initialize', leaseDuration: { seconds: leaseSeconds } };
    const { claims } = await jobs.claimNext({ ...request, wait: { seconds: 20n } });
    assert.ok(claims[0], 'nothing to claim');
    return claims[0];
  };

  const tokenOf = (held: Claim) => ({ runId: held.run?.id ?? '', leaseToken: held.leaseToken });

  const leaseOf = (held: Claim): LeaseKey => {
    const lease = decodeLeaseToken(held.leaseToken);
    assert.ok(lease);
    return lease;
  };

  const runOf = async (id: string) => (await baton.jobs.getRun({ id })).run;

  const isOver = async (id: string): Promise<boolean> => {
    const [row] = await database.pool.query<{ over: boolean }>(
      'select lease_expire_time <= clock_timestamp() as over from baton.runs where id = $1',
      [id],
    );
    return row?.over ?? false;
  };

  const untilLockIsWaitedFor = async (settled: () => boolean): Promise<void> =>
    waitFor(
      async () => settled() || (await waitingForLock(database.pool)).length > 0,
      'a statement to wait for a lock, or to go on without',
    );

  void test('a token from before a hand-back is worth nothing, though the attempt is the same', async () => {
    const id = await create();
    const first = await claim();
    await baton.jobs.updateStatus({ ...tokenOf(first), status: 'new' });
    const second = await claim();
    assert.deepEqual([first.run?.attempt, second.run?.attempt], [1, 1]);
    const refused = await failure(baton.jobs.updateStatus({ ...tokenOf(first), status: 'initialized' }));
    assert.equal(refused.reason, 'LEASE_LOST');
    assert.deepEqual(
      [(await runOf(id))?.status, (await runOf(id))?.version],
      ['initializing', second.run?.version],
    );
  });

  void test('a token of an ended lease changes nothing while another worker holds the run', async () => {
    const id = await create();
    const first = await claim(1n);
    const second = await claim();
    assert.equal(second.run?.id, id);
    const refused = await failure(baton.jobs.updateStatus({ ...tokenOf(first), status: 'initialized' }));
    assert.equal(refused.reason, 'LEASE_LOST');
    assert.equal((await runOf(id))?.version, second.run?.version);
    const done = await baton.jobs.updateStatus({ ...tokenOf(second), status: 'initialized' });
    assert.equal(done.run?.status, 'initialized');
  });

  void test('a hand-back of a lease that is over leaves the next holder alone', async () => {
    const id = await create();
    const first = await claim();
    assert.equal(await releaseClaims(database.pool, [{ runId: id, lease: leaseOf(first) }]), 1);
    const second = await claim();
    assert.equal(await releaseClaims(database.pool, [{ runId: id, lease: leaseOf(first) }]), 0);
    assert.deepEqual(
      [(await runOf(id))?.state, (await runOf(id))?.version],
      [RunState.ACTIVE, second.run?.version],
    );
  });

  void test('a run whose cancel was asked for is canceled when its claim is handed back', async () => {
    const id = await create();
    const held = await claim();
    await baton.jobs.cancelRun({ runId: id });
    assert.equal(await releaseClaims(database.pool, [{ runId: id, lease: leaseOf(held) }]), 1);
    assert.equal((await runOf(id))?.state, RunState.CANCELED);
  });

  void test('claims of a limited stage that meet on two servers do not count the same', async () => {
    const other = await startTestServer(database.url);
    const keeper = await database.connect();
    try {
      const stage = { name: 's', processingStatus: 'at', doneStatus: 'done', maxActive: 1 };
      await baton.pipelines.putPipeline({ pipeline: { name: 'p', stages: [stage] } });
      await database.pool.query(GATE_TRIGGER);
      await create({ pipeline: 'p', repository: 'gated' });
      await keeper.query(`select pg_advisory_lock(${GATE})`);
      const slow = baton.jobs.claimNext({ pipeline: 'p', stage: 's' });
      await untilLockIsWaitedFor(() => false);
      // More urgent, so that the second claim does not choose the run that the first one has in hand.
      await create({ pipeline: 'p', priority: 9 });
      let settled = false;
      const quick = other.jobs.claimNext({ pipeline: 'p', stage: 's' }).finally(() => (settled = true));
      await waitFor(
        async () => settled || (await waitingForLock(database.pool)).length > 1,
        'the second claim to be made or to wait',
      );
      await keeper.query(`select pg_advisory_unlock(${GATE})`);
      const answers = await within(Promise.all([slow, quick]), 'both claims');
      assert.deepEqual(
        answers.map(({ claims }) => claims.length),
        [1, 0],
      );
    } finally {
      await other.stop();
    }
  });

  void test('a server whose clock is an hour ahead gives whole leases and ends none', async () => {
    const env = { NODE_OPTIONS: HOUR_AHEAD };
    const server = new ServerProcess(['serve', ...ANY_PORT, '--database-url', database.url], { env });
    try {
      await server.ready();
      const jobs = createClient(JobService, createGrpcTransport({ baseUrl: `http://${server.grpcAddress}` }));
      // The other server would end leases too, and rightly.
      await baton.stop();
      const [kept, ended] = await Promise.all([jobs.createRun({}), jobs.createRun({})]);
      const held = await claim(60n, jobs);
      const brief = await claim(1n, jobs);
      const [row] = await database.pool.query<{ left: number }>(
        `select extract(epoch from lease_expire_time - clock_timestamp())::float8 as left from baton.runs where id = $1`,
        [held.run?.id],
      );
      assert.ok(
        (row?.left ?? 0) > 30 && (row?.left ?? 0) <= 60,
        `${row?.left} s are left of a lease of 60 s`,
      );
      const stateOf = async (id: string | undefined) => (await jobs.getRun({ id: id ?? '' })).run?.state;
      await waitFor(
        async () => (await stateOf(brief.run?.id)) === RunState.PENDING,
        'the short lease to end',
        5000,
      );
      assert.equal(await stateOf(held.run?.id), RunState.ACTIVE);
      assert.deepEqual(new Set([held.run?.id, brief.run?.id]), new Set([kept.run?.id, ended.run?.id]));
    } finally {
      await server.end();
    }
  });

  void test('a row in the hands of another transaction does not keep other leases from ending', async () => {
    const [first, second] = [await create(), await create()];
    const holder = await database.connect();
    const [stuck, other] = [await claim(2n), await claim()];
    await holder.query('begin');
    await holder.query('select from baton.runs where id = $1 for update', [first]);
    assert.deepEqual([stuck.run?.id, other.run?.id, await isOver(first)], [first, second, false]);
    await waitFor(() => isOver(first), 'the time of the locked lease to be over');
    await database.pool.query('update baton.runs set lease_expire_time = clock_timestamp() where id = $1', [
      second,
    ]);
    const ended = async (): Promise<boolean> => (await runOf(second))?.state === RunState.PENDING;
    await waitFor(ended, 'the other lease to end', 2500);
    await holder.query('rollback');
  });

  void test('a lease whose time is over is not extended, also before anybody ended it', async () => {
    const id = await create();
    const held = await claim();
    const extension = { runId: id, lease: leaseOf(held), leaseMs: 60_000 };
    const nothing = { progress: undefined, statusMessage: undefined, checkpoint: undefined };
    const rolledBack = new Error('seen enough');
    const outcome = database.pool.transaction(async (tx) => {
      assert.ok((await extendLeases(tx, [{ ...extension, ...nothing }]))[0], 'while it lives');
      // Seen by this transaction only, so that nobody ends the lease meanwhile.
      await tx.query(`update baton.runs set lease_expire_time = clock_timestamp() where id = $1`, [id]);
      assert.equal((await extendLeases(tx, [{ ...extension, ...nothing }]))[0], undefined);
      assert.equal((await extendLeases(tx, [{ ...extension, ...nothing, progress: 0.5 }]))[0], undefined);
      throw rolledBack;
    });
    await assert.rejects(outcome, rolledBack);
  });

  void test('nobody is told of a lost lease while an earlier copy of the call may still commit', async () => {
    const id = await create();
    const held = await claim(2n);
    // What the earlier copy has done when its server comes to a stop before the commit.
    const copy = await database.connect();
    await copy.query('begin');
    await copy.query(`update baton.runs set status = 'initialized' where id = $1`, [id]);
    await waitFor(() => isOver(id), 'the time of the lease to be over');
    let settled = false;
    const repeated = baton.jobs
      .updateStatus({ ...tokenOf(held), status: 'initialized' })
      .finally(() => (settled = true));
    repeated.catch(() => undefined);
    await untilLockIsWaitedFor(() => settled);
    await copy.query('commit');
    assert.equal((await within(repeated, 'the repeated call')).run?.status, 'initialized');
  });

  void test('a definition is not replaced while a transaction moves a run by the old one', async () => {
    const definition = (waiting: string) => ({
      pipeline: {
        name: 'p',
        stages: [
          { name: 'a', processingStatus: 'in-a', doneStatus: waiting },
          { name: 'b', processingStatus: 'in-b', doneStatus: 'done' },
        ],
      },
    });
    await baton.pipelines.putPipeline(definition('between'));
    const id = await create({ pipeline: 'p' });
    const mover = await database.connect();
    await mover.query('begin');
    await mover.query(`update baton.runs set status = 'between' where id = $1`, [id]);
    let settled = false;
    const put = baton.pipelines.putPipeline(definition('elsewhere')).finally(() => (settled = true));
    put.catch(() => undefined);
    await untilLockIsWaitedFor(() => settled);
    await mover.query('commit');
    assert.equal((await failure(within(put, 'the new definition'))).reason, 'PIPELINE_IN_USE');
    assert.deepEqual([(await runOf(id))?.status, (await runOf(id))?.stage], ['between', 'b']);
  });
});
