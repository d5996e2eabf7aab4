/** Tokens after a restore, a copy or a failover: they lead to exactly what follows, or are refused. Never silently wrong. */
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { Code } from '@connectrpc/connect';
import { systemClock } from '../../src/base/clock.js';
import { Retention } from '../../src/service/retention.js';
import { extendLog, trimLog } from '../../src/store/log_partitions.js';
import { createPool, type Pool } from '../../src/store/pool.js';
import { identifyLog, type Identified } from '../../src/store/sql/identify_log.js';
import { isLost } from '../../src/store/sql/is_lost.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { LogIdentity } from '../../src/watch/identity.js';
import { decodeResumeToken, encodeResumeToken } from '../../src/watch/resume_token.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { Rig } from '../support/chaos_rig.js';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { fresh, must } from '../support/log_runs.js';
import {
  databaseAt,
  dumpAndRestore,
  onDatabase,
  ownCluster,
  skipWithout15,
  standbyOf,
} from '../support/restores.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';
import { Watching } from '../support/watching.js';

const HOLE = 2n ** 32n;

/** What a test has begun, put away in reverse however it ends. */
class Cleanup {
  readonly #steps: (() => Promise<unknown>)[] = [];

  constructor(t: TestContext) {
    t.after(async () => {
      for (const step of this.#steps.reverse()) await step();
    });
  }

  push(step: () => Promise<unknown>): void {
    this.#steps.push(step);
  }

  async serve(databaseUrl: string): Promise<TestServer> {
    const baton = await startTestServer(databaseUrl);
    this.push(() => baton.stop());
    return baton;
  }
}

/** Why a watch from this token is refused; fails when it is not. */
async function refusal(baton: TestServer, after: string): Promise<readonly [Code, string]> {
  const watch = new Watching(baton.jobs, { after });
  await waitFor(() => watch.ended || watch.messages.length > 0, 'an answer');
  await watch.cancel();
  assert.equal(watch.messages.length, 0, 'it was opened');
  const { code, reason } = await failure(Promise.reject(watch.error));
  return [code, reason];
}

const FOREIGN = [Code.FailedPrecondition, 'RESUME_TOKEN_FOREIGN'] as const;
const FUTURE = [Code.FailedPrecondition, 'RESUME_TOKEN_FUTURE'] as const;

/** The events after a token: as many as there should be, then a change of our own as the end. */
async function eventsAfter(baton: TestServer, after: string, count: number): Promise<string[]> {
  const watch = await new Watching(baton.jobs, { after }).opened();
  await watch.hasEvents(count);
  await baton.jobs.createRun({ repository: 'end' });
  await watch.hasEvents(count + 1);
  await watch.cancel();
  const names = watch.events.map(({ run }) => run?.repository ?? '');
  assert.equal(names.pop(), 'end', 'more events than there should be');
  return names;
}

const create = async (baton: TestServer, repository: string): Promise<void> =>
  void (await baton.jobs.createRun({ repository }));

const headToken = async (baton: TestServer): Promise<string> => (await baton.jobs.listRuns({})).resumeToken;

/** As a restore leaves it: the row has come from a database with another identity. */
const pretendRestored = (db: Pool): Promise<unknown> =>
  db.query('update baton.log set database_oid = 1 where database_oid <> 1');

/** As a promotion leaves it. */
const pretendPromoted = (db: Pool): Promise<unknown> =>
  db.query('update baton.log set timeline = timeline + 1');

const outcomes = async (db: Pool, times: number): Promise<string[]> => {
  const all: Identified[] = await Promise.all(Array.from({ length: times }, () => identifyLog(db)));
  return all.map(({ outcome }) => outcome).sort();
};

describeOnEveryPostgres('the identity of the log', (open) => {
  void test(
    'is written down once and kept, whoever looks',
    fresh(open, async ({ pool }) => {
      const { epoch } = await readHead(pool);
      assert.deepEqual(await outcomes(pool, 8), ['adopted', ...Array.from({ length: 7 }, () => 'same')]);
      assert.equal((await readHead(pool)).epoch, epoch, 'a log that was never identified keeps its tokens');
    }),
  );

  void test(
    'another one makes one new epoch, however many servers look at once',
    fresh(open, async ({ pool }) => {
      await identifyLog(pool);
      const { epoch } = await readHead(pool);
      for (const column of ['database_oid', 'log_oid', 'system_identifier']) {
        const before = (await readHead(pool)).epoch;
        await pool.query(`update baton.log set ${column} = 1`);
        assert.deepEqual(
          await outcomes(pool, 8),
          ['epoch', ...Array.from({ length: 7 }, () => 'same')],
          column,
        );
        assert.notEqual((await readHead(pool)).epoch, before);
      }
      assert.notEqual((await readHead(pool)).epoch, epoch);
    }),
  );

  void test(
    'a role that may not ask for the cluster changes nothing for those who may, and is told once',
    fresh(open, async (db) => {
      await identifyLog(db.pool);
      const { epoch } = await readHead(db.pool);
      await db.pool.query('revoke execute on function pg_control_system() from public');
      const role = `weak_${process.pid}_${db.version}`;
      await db.pool.query(`create role ${role} login password 'secret'`);
      const url = new URL(db.url);
      [url.username, url.password] = [role, 'secret'];
      const weak = createPool({ databaseUrl: url.toString(), connections: 1, log: silent });
      const told: unknown[] = [];
      try {
        await db.pool.query(`grant usage on schema baton to ${role}`);
        await db.pool.query(`grant all on all tables in schema baton to ${role}`);
        await db.pool.query(`grant all on all sequences in schema baton to ${role}`);
        const log = { warn: (text: unknown) => told.push(text) } as unknown as typeof silent;
        const identity = new LogIdentity(weak, log);
        await identity.check();
        await identity.check();
        assert.equal(told.length, 1);
        assert.match(String(told[0]), /pg_control_system/);
        assert.deepEqual([await outcomes(weak, 1), await outcomes(db.pool, 1)], [['same'], ['same']]);
        await db.pool.query('update baton.log set system_identifier = null');
        assert.deepEqual([await outcomes(weak, 1), await outcomes(db.pool, 1)], [['same'], ['adopted']]);
        assert.equal((await readHead(db.pool)).epoch, epoch);
        await pretendRestored(db.pool);
        assert.deepEqual(await outcomes(weak, 1), ['epoch'], 'what it can see is enough');
      } finally {
        await weak.close();
        await db.pool.query(`drop owned by ${role}`);
        await db.pool.query(`drop role ${role}`);
        await db.pool.query('grant execute on function pg_control_system() to public');
      }
    }),
  );

  void test(
    'servers that run end the streams of the old epoch, and refuse its tokens, from then on',
    fresh(open, async (db) => {
      const servers = [await startTestServer(db.url), await startTestServer(db.url)] as const;
      const [baton, other] = servers;
      try {
        for (let n = 0; n < 3; n += 1) await create(baton, String(n));
        const streams = await Promise.all(servers.map(({ jobs }) => new Watching(jobs).opened()));
        const token = await headToken(baton);
        const page = (await baton.jobs.listRuns({ pageSize: 1 })).nextPageToken;
        const { runs } = await baton.jobs.listRuns({});
        const runId = runs[0]?.id ?? '';
        await db.pool.query('update baton.runs set progress = 0.5');
        const history = (await baton.jobs.listRunEvents({ runId, pageSize: 1 })).nextPageToken;
        assert.equal((await baton.jobs.listRuns({ pageSize: 1, pageToken: page })).runs.length, 1);
        await pretendRestored(db.pool);
        assert.deepEqual(await refusal(other, token), FOREIGN, 'at once, also where nobody has looked since');
        for (const stream of streams) {
          await within(stream.end(), 'a stream of the old epoch to end');
          const { code, reason } = await failure(Promise.reject(stream.error));
          assert.deepEqual([code, reason], FOREIGN);
        }
        for (const { jobs } of servers) {
          const lists = [
            () => jobs.listRuns({ pageSize: 1, pageToken: page }),
            () => jobs.listRunEvents({ runId, pageSize: 1, pageToken: history }),
          ];
          for (const list of lists) {
            const { code, reason } = await failure(list());
            assert.deepEqual([code, reason], FOREIGN);
          }
          const again = await new Watching(jobs, { after: await headToken(baton) }).opened();
          await create(other, 'new');
          await again.hasEvents(1);
          await again.cancel();
        }
      } finally {
        await Promise.all(servers.map((server) => server.stop()));
      }
    }),
  );

  void test(
    'a stream that catches up is not led on into another log',
    fresh(open, async (db) => {
      const rig = new Rig(db);
      try {
        await rig.insert(3);
        const reader = await rig.open(0n);
        assert.equal((await reader.subscription.next())?.kind, 'OPENED');
        await db.pool.query('update baton.log set epoch = gen_random_uuid()');
        await assert.rejects(reader.subscription.next(), { reason: 'RESUME_TOKEN_FOREIGN' });
        reader.subscription.close();
      } finally {
        await rig.stop();
      }
    }),
  );

  void test(
    'a stream of the new log waits until the server follows that, and misses nothing',
    fresh(open, async (db) => {
      const rig = new Rig(db);
      try {
        rig.tail.start();
        await rig.insert(3);
        const old = await (await (await rig.open(3n)).opened()).live();
        await db.pool.query('update baton.log set epoch = gen_random_uuid()');
        const recent = await (await rig.open(2n)).opened();
        recent.pull();
        await rig.insert(2);
        rig.tail.ring();
        await recent.hasEvents(3);
        assert.deepEqual(recent.revisions, [3n, 4n, 5n]);
        await old.next('a last token');
        assert.deepEqual(old.revisions, [], 'nothing of the new log');
        await assert.rejects(old.next('the end'), { reason: 'RESUME_TOKEN_FOREIGN' });
        recent.subscription.close();
      } finally {
        await rig.stop();
      }
    }),
  );

  void test('CREATE DATABASE with a template: the copy has another log', async (t) => {
    const db: TestDatabase = await open();
    const copy = `${new URL(db.url).pathname.slice(1)}_copy`;
    const maintenance = databaseAt(db.url, 'postgres');
    const cleanup = new Cleanup(t);
    cleanup.push(() => db.drop());
    cleanup.push(() => onDatabase(maintenance, `drop database if exists ${copy} with (force)`));
    const baton = await cleanup.serve(db.url);
    await create(baton, 'a');
    const token = await headToken(baton);
    await create(baton, 'b');
    await baton.stop();
    const name = new URL(db.url).pathname.slice(1);
    await waitFor(async () => {
      const rows = await onDatabase(maintenance, `select 1 from pg_stat_activity where datname = '${name}'`);
      return rows.length === 0;
    }, 'the sessions of the server to end');
    await onDatabase(maintenance, `create database ${copy} template ${name}`);
    const copied = await cleanup.serve(databaseAt(db.url, copy));
    assert.deepEqual(await refusal(copied, token), FOREIGN);
    assert.deepEqual(await eventsAfter(copied, 'oldest', 2), ['a', 'b']);
    await copied.stop();
    const original = await cleanup.serve(db.url);
    assert.deepEqual(await eventsAfter(original, token, 1), ['b']);
    await original.stop();
  });
});

describeOnEveryPostgres('a hole in the log', (open) => {
  void test(
    'is made once by any number of servers, and no revision in it is ever given out',
    fresh(open, async (db) => {
      await identifyLog(db.pool);
      await db.pool.query('insert into baton.runs (priority) select 0 from generate_series(1, 5)');
      await pretendPromoted(db.pool);
      const writing = Array.from({ length: 10 }, () =>
        db.pool.query('insert into baton.runs default values'),
      );
      const seen = await outcomes(db.pool, 8);
      await Promise.all(writing);
      assert.deepEqual(seen, [...Array.from({ length: 7 }, () => 'same'), 'timeline']);
      const [hole] = await db.pool.query<{ low: bigint; high: bigint; inside: bigint }>(
        `select after_revision as low, through_revision as high,
           (select count(*) from baton.run_events e
            where e.revision > h.after_revision and e.revision <= h.through_revision) as inside
         from baton.log_holes h`,
      );
      const { low, high, inside } = must(hole, 'a hole');
      assert.ok(high - low >= HOLE && inside === 0n, `${low} to ${high} with ${inside} events`);
      for (const [revision, lost] of [
        [low - 1n, false],
        [low, false],
        [low + 1n, true],
        [low + HOLE / 2n, true],
        [high - 1n, true],
        [high, false],
        [high + 1n, false],
      ] as const)
        assert.equal(await isLost(db.pool, revision), lost, String(revision - low));
      await pretendPromoted(db.pool);
      await pretendPromoted(db.pool);
      assert.deepEqual(await outcomes(db.pool, 1), ['timeline']);
      await pretendPromoted(db.pool);
      assert.deepEqual(await outcomes(db.pool, 1), ['timeline'], 'again before anything was written');
    }),
  );

  void test(
    'is lived with by partitions, retention, lists, figures and streams',
    fresh(open, async (db) => {
      const baton = await startTestServer(db.url);
      try {
        const stats = async (): Promise<number> => {
          const { pipelines } = await baton.pipelines.getStats({});
          return Math.round((pipelines[0]?.stages[0]?.claimsPerSecond ?? 0) * 60);
        };
        await create(baton, 'before');
        await baton.jobs.claimNext({ stage: 'initialize' });
        const token = await headToken(baton);
        const point = decodeResumeToken(token);
        const live = await new Watching(baton.jobs).opened();
        await pretendPromoted(db.pool);
        await identifyLog(db.pool);
        assert.equal(await headToken(baton), token, 'the head is where it was');
        assert.equal(await stats(), 1);
        // The server's own look, at its start, may be the one that makes them.
        let partitions: { readonly all: number; readonly behind: number } | undefined;
        await waitFor(async () => {
          await extendLog(db.pool, 1_000_000n, 3);
          [partitions] = await db.pool.query<{ all: number; behind: number }>(
            `select count(*)::int as "all", count(*) filter (where p.first > $1::bigint)::int as behind
             from pg_inherits i
             join pg_class c on c.oid = i.inhrelid
             cross join lateral (select substring(c.relname from 'p([0-9]+)$')::bigint as first) p
             where i.inhparent = 'baton.run_events'::regclass`,
            [HOLE],
          );
          return (partitions?.behind ?? 0) > 0;
        }, 'partitions behind the hole');
        assert.ok((partitions?.all ?? 0) < 15, `there are ${partitions?.all} partitions`);
        await create(baton, 'after');
        await baton.jobs.claimNext({ stage: 'initialize' });
        await live.hasEvents(2);
        const watched = live.events.map(({ revision }) => revision);
        assert.ok(watched.every((revision) => revision > HOLE));
        await live.cancel();
        const [stray] = await db.pool.query<{ n: bigint }>(
          'select count(*) as n from baton.run_events_default',
        );
        assert.equal(stray?.n, 0n);
        assert.equal(await stats(), 2);
        for (const revision of [point.revision + 1n, watched[0] ?? 0n].map((r) => r - (r > HOLE ? 2n : 0n)))
          assert.deepEqual(
            await refusal(baton, encodeResumeToken({ ...point, revision })),
            FUTURE,
            String(revision),
          );
        const following = await new Watching(baton.jobs, { after: token }).opened();
        await following.hasEvents(2);
        assert.deepEqual(
          following.events.map(({ revision }) => revision),
          watched,
        );
        await following.cancel();
        const retention = new Retention({
          pool: db.pool,
          clock: systemClock,
          log: silent,
          policy: { logMs: 1, runsMs: 0, partitionRevisions: 1_000_000 },
        });
        await waitFor(
          async () => (await trimLog(db.pool, 1)) > HOLE,
          'the history before the hole to be trimmed',
        );
        await retention.sweep();
        const oldest = await new Watching(baton.jobs, { after: 'oldest' }).opened();
        await oldest.hasEvents(2);
        assert.deepEqual(
          oldest.events.map(({ revision }) => revision),
          watched,
        );
        await oldest.cancel();
        const again = await new Watching(baton.jobs, {
          after: oldest.messages[0]?.resumeToken ?? '',
        }).opened();
        await again.hasEvents(2);
        await again.cancel();
        assert.deepEqual(await refusal(baton, token), [Code.OutOfRange, 'RESUME_TOKEN_TOO_OLD']);
      } finally {
        await baton.stop();
      }
    }),
  );

  void test(
    'ends the streams that stand in it, live or not',
    fresh(open, async (db) => {
      await identifyLog(db.pool);
      const rig = new Rig(db);
      try {
        await rig.insert(5);
        const [catching, live] = [await rig.open(3n), await rig.open(5n)];
        for (const { subscription } of [catching, live])
          assert.equal((await subscription.next())?.kind, 'OPENED');
        // What the standby had not received.
        await db.pool.query('delete from baton.run_events where revision > 2');
        await pretendPromoted(db.pool);
        await identifyLog(db.pool);
        await rig.insert(5);
        for (const { subscription } of [catching, live]) {
          await assert.rejects(within(subscription.next(), 'the end'), { reason: 'RESUME_TOKEN_FUTURE' });
          subscription.close();
        }
      } finally {
        await rig.stop();
      }
    }),
  );
});

void test(
  'pg_dump and psql: tokens are of the database that was dumped',
  { skip: skipWithout15 },
  async (t) => {
    const [home, away] = [await ownCluster(), await ownCluster()];
    const cleanup = new Cleanup(t);
    for (const cluster of [home, away]) cleanup.push(() => cluster.remove());
    const source = databaseAt(home.url, 'source');
    for (const url of [home.url, away.url])
      await onDatabase(url, 'create database source', 'create database target');
    const baton = await cleanup.serve(source);
    await create(baton, 'a');
    const token = await headToken(baton);
    await create(baton, 'b');
    for (const target of [
      databaseAt(home.url, 'target'),
      databaseAt(away.url, 'target'),
      databaseAt(away.url, 'source'),
    ]) {
      await dumpAndRestore(source, target);
      const restored = await cleanup.serve(target);
      assert.deepEqual(await refusal(restored, token), FOREIGN, target);
      assert.deepEqual(await eventsAfter(restored, 'oldest', 2), ['a', 'b']);
      await restored.stop();
    }
    assert.deepEqual(await eventsAfter(baton, token, 1), ['b'], 'at home it is as good as ever');

    // In place, under a server that goes on: the schema is dropped and comes back from the dump.
    await dumpAndRestore(source, databaseAt(home.url, 'target').replace('/target', '/postgres'));
    const stream = await new Watching(baton.jobs).opened();
    const late = await headToken(baton);
    await onDatabase(source, 'drop schema baton cascade');
    await dumpAndRestore(databaseAt(home.url, 'postgres'), source);
    assert.deepEqual(await refusal(baton, late), FOREIGN);
    await within(stream.end(), 'the stream of the old log to end');
    assert.equal((await failure(Promise.reject(stream.error))).reason, 'RESUME_TOKEN_FOREIGN');
    await baton.stop();
  },
);

void test(
  'a standby that lags is promoted: what it lacks is refused for ever, the rest goes on',
  { skip: skipWithout15 },
  async (t) => {
    const primary = await ownCluster();
    const cleanup = new Cleanup(t);
    cleanup.push(() => primary.remove());
    const { port, hostname: host } = new URL(primary.url);
    let proxy = await FaultProxy.start({ host, port: Number(port) });
    cleanup.push(() => proxy.close());
    const url = new URL(primary.url);
    url.port = String(proxy.port);
    const baton = await cleanup.serve(url.toString());
    const live = await new Watching(baton.jobs).opened();
    await create(baton, 'kept 1');
    const early = await headToken(baton);
    await create(baton, 'kept 2');
    const kept = await headToken(baton);
    let standby = await standbyOf(primary);
    cleanup.push(() => standby.remove());
    await standby.stop();
    for (let n = 0; n < 5; n += 1) await create(baton, `lost ${n}`);
    const lost = await headToken(baton);
    await live.hasEvents(7);
    // The primary is gone; the standby takes its place at the same address.
    const { port: address } = proxy;
    await proxy.close();
    await primary.stop();
    standby = await standby.restart();
    assert.deepEqual(await onDatabase(standby.url, 'select pg_is_in_recovery() as standby'), [
      { standby: true },
    ]);
    await onDatabase(standby.url, 'select pg_promote()');
    proxy = await FaultProxy.start({ host, port: Number(new URL(standby.url).port), listenPort: address });

    await within(live.end(), 'the stream that has seen what is lost to end', 30_000);
    assert.equal((await failure(Promise.reject(live.error))).reason, 'RESUME_TOKEN_FUTURE');
    assert.deepEqual(await refusal(baton, lost), FUTURE);
    assert.deepEqual(await eventsAfter(baton, early, 1), ['kept 2']);
    for (let n = 0; n < 10; n += 1) await create(baton, `new ${n}`);
    assert.deepEqual(await refusal(baton, lost), FUTURE, 'also when the log has grown past it');
    assert.deepEqual(
      (await eventsAfter(baton, kept, 11)).slice(-10),
      Array.from({ length: 10 }, (_, n) => `new ${n}`),
    );
    const all = (await eventsAfter(baton, 'oldest', 14)).filter((name) => name !== 'end');
    assert.deepEqual(all, ['kept 1', 'kept 2', ...Array.from({ length: 10 }, (_, n) => `new ${n}`)]);
    const [hole] = await onDatabase(standby.url, 'select count(*)::int as n from baton.log_holes');
    assert.deepEqual(hole, { n: 1 });
  },
);
