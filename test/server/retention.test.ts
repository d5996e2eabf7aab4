import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { Code, ConnectError } from '@connectrpc/connect';
import { systemClock } from '../../src/base/clock.js';
import { Retention } from '../../src/service/retention.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';
import { Watching } from '../support/watching.js';

const PARTITION = 50;

describeOnEveryPostgres('retention of the log', (open) => {
  let database: TestDatabase;
  let baton: TestServer;

  beforeEach(async () => {
    database = await open();
    // Small partitions in place of the first one of a million.
    await database.pool.query('drop table baton.run_events_p0');
    await policy(0).sweep();
    baton = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await database.drop();
  });

  const policy = (logMs: number, runsMs = 0): Retention =>
    new Retention({
      pool: database.pool,
      clock: systemClock,
      log: silent,
      policy: { logMs, runsMs, partitionRevisions: PARTITION },
    });

  const partitions = async (): Promise<string[]> => {
    const rows = await database.pool.query<{ name: string }>(
      `select c.relname as name from pg_inherits i join pg_class c on c.oid = i.inhrelid
       where i.inhparent = 'baton.run_events'::regclass order by length(c.relname), c.relname`,
    );
    return rows.map((row) => row.name);
  };

  const createRuns = async (count: number): Promise<void> => {
    for (let index = 0; index < count; index += 1) await baton.jobs.createRun({});
  };

  const strays = async (): Promise<number> => {
    const [row] = await database.pool.query<{ n: number }>(
      'select count(*)::int as n from baton.run_events_default',
    );
    return row?.n ?? -1;
  };

  void test('makes partitions ahead of the head, so that none goes astray', async () => {
    for (let round = 0; round < 4; round += 1) {
      await createRuns(PARTITION);
      await policy(0).sweep();
    }
    assert.equal(await strays(), 0);
    assert.deepEqual((await partitions()).slice(0, 4), [
      'run_events_p0',
      'run_events_p50',
      'run_events_p100',
      'run_events_p150',
    ]);
  });

  void test('goes on after the default partition had to catch what no partition was made for', async () => {
    // What the server makes at its start, a minute before it would look again.
    await waitFor(async () => (await partitions()).length > 5, 'the partitions of the server');
    for (const name of (await partitions()).slice(1)) {
      if (name !== 'run_events_default') await database.pool.query(`drop table baton.${name}`);
    }
    await createRuns(PARTITION * 4);
    assert.ok((await strays()) > 0);
    await policy(0).sweep();
    const watch = await new Watching(baton.jobs, { after: 'oldest' }).opened();
    await watch.hasEvents(PARTITION * 4);
    await createRuns(10);
    await watch.hasEvents(PARTITION * 4 + 10);
    const revisions = watch.events.map((event) => event.revision);
    assert.deepEqual(
      revisions,
      Array.from({ length: PARTITION * 4 + 10 }, (_, index) => BigInt(index + 1)),
    );
    await watch.cancel();
  });

  void test('drops whole old partitions, publishes the oldest revision and refuses what is older', async () => {
    const early = await new Watching(baton.jobs, { after: 'oldest' }).opened();
    await createRuns(PARTITION + 20);
    await early.hasEvents(PARTITION + 20);
    const before = (await baton.jobs.listRuns({})).resumeToken;
    await policy(60_000).sweep();
    assert.equal((await readHead(database.pool)).oldestRevision, 1n, 'young history is kept');
    await policy(1).sweep();
    const head = await readHead(database.pool);
    assert.equal(head.oldestRevision, BigInt(PARTITION), 'the partition that is still written to is kept');
    assert.ok(!(await partitions()).includes('run_events_p0'));

    const gone = new Watching(baton.jobs, { after: early.messages[0]?.resumeToken ?? '' });
    await gone.end();
    const error = ConnectError.from(gone.error);
    assert.equal(error.code, Code.OutOfRange);
    const kept = await new Watching(baton.jobs, { after: before }).opened();
    const oldest = await new Watching(baton.jobs, { after: 'oldest' }).opened();
    await oldest.hasEvents(21);
    assert.equal(oldest.events[0]?.revision, BigInt(PARTITION));
    assert.equal(early.ended, false);
    for (const watch of [early, kept, oldest]) await watch.cancel();
  });

  void test('a transaction that is committed late loses nothing to retention by age', async () => {
    const idle = await database.connect();
    await idle.query('begin');
    await idle.query(`insert into baton.runs (repository) values ('late')`);
    await createRuns(PARTITION + 1);
    await policy(1).sweep();
    const watch = await new Watching(baton.jobs, { after: 'oldest' }).opened();
    await idle.query('commit');
    await policy(1).sweep();
    await waitFor(() => watch.events.some((event) => event.run?.repository === 'late'), 'the late event');
    await watch.cancel();
  });

  void test('a stream that catches up when its history is dropped is told, not silently moved on', async () => {
    await createRuns(PARTITION * 2 + 10);
    await policy(0).sweep();
    const stream = baton.server.service.hub.open(
      { runIds: [], pipelines: [], stages: [], statuses: [], states: [], repository: '', labels: {} },
      false,
      (await readHead(database.pool)).epoch,
      0n,
      10_000,
    );
    assert.equal((await stream.next())?.kind, 'OPENED');
    await policy(1).sweep();
    await assert.rejects(stream.next(), { reason: 'RESUME_TOKEN_TOO_OLD' });
    stream.close();
  });

  void test('a reader that left its transaction open delays no writer, and the drop happens later', async () => {
    await createRuns(PARTITION + 1);
    const reader = await database.connect();
    await reader.query('begin');
    await reader.query('select count(*) from baton.run_events');
    await policy(1).sweep();
    assert.equal((await readHead(database.pool)).oldestRevision, BigInt(PARTITION));
    assert.ok((await partitions()).includes('run_events_p0'), 'the lock could not be had');
    await createRuns(1);
    await reader.query('commit');
    await policy(1).sweep();
    assert.ok(!(await partitions()).includes('run_events_p0'));
  });

  void test('finished runs are removed when their history is gone, open ones never', async () => {
    await createRuns(2);
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize' });
    const done = claims[0];
    await baton.jobs.updateStatus({
      runId: done?.run?.id ?? '',
      leaseToken: done?.leaseToken ?? '',
      status: 'canceled',
    });
    await policy(1, 1).sweep();
    assert.equal((await baton.jobs.listRuns({})).runs.length, 2, 'its events are still kept');
    await createRuns(PARTITION);
    await policy(1, 1).sweep();
    const left = (await baton.jobs.listRuns({ pageSize: 1000 })).runs;
    assert.equal(left.length, PARTITION + 1);
    assert.ok(left.every((run) => run.id !== done?.run?.id));
  });
});
