/** A database that cannot be written to is one that is away, and what an operator does to one is no internal error. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Code, ConnectError } from '@connectrpc/connect';
import { RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { createPool } from '../../src/store/pool.js';
import { BatonError } from '../../src/base/errors.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnEveryPostgresAtOnce, silent, type TestDatabase } from '../support/database.js';
import { ownCluster, skipWithout15, standbyOf, onDatabase } from '../support/restores.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';

/** Well again this long after the database is, at the latest; asserted at ten times that. */
const WELL_MS = 5000;

const readyz = async ({ httpUrl }: TestServer): Promise<string> => {
  const response = await fetch(`${httpUrl}/readyz`);
  return `${response.status} ${(await response.text()).trim()}`;
};

/** What a call of each kind ends with while the database cannot be worked with. */
async function outcomes({ jobs, pipelines }: TestServer): Promise<readonly string[]> {
  const calls = [
    jobs.createRun({}),
    jobs.createRun({ requestId: 'one' }),
    jobs.batchCreateRuns({ requests: [{}] }),
    jobs.claimNext({ stage: 'initialize' }),
    jobs.cancelRuns({ filter: { repository: 'x' } }),
    pipelines.pausePipeline({ name: 'ci' }),
  ];
  const settled = await Promise.allSettled(calls);
  return settled.map((outcome) => {
    if (outcome.status === 'fulfilled') return 'done';
    const error = ConnectError.from(outcome.reason);
    const [retry] = error.findDetails(RetryInfoSchema);
    return `${Code[error.code]} ${retry === undefined ? 'without RetryInfo' : 'to be retried'}`;
  });
}

const AWAY = 'Unavailable to be retried';

/** While something stands in the way: every call is told to come back, and the server says that it is not ready. */
async function isAway(baton: TestServer, detail: RegExp): Promise<void> {
  const seen = new Set<string>();
  const settled = async (): Promise<boolean> => {
    const all = await outcomes(baton);
    for (const one of all) if (one !== 'done') seen.add(one);
    return !all.includes('done') && detail.test(await readyz(baton));
  };
  await waitFor(settled, `readyz to be ${detail}`, 30_000);
  for (let n = 0; n < 5; n += 1) for (const one of await outcomes(baton)) seen.add(one);
  assert.deepEqual([...seen], [AWAY]);
}

async function isWellSoon(baton: TestServer, what: string): Promise<void> {
  const from = performance.now();
  await waitFor(async () => (await readyz(baton)) === '200 ready', `${what} to be over`, WELL_MS * 10);
  console.log(`${what}: ready again after ${Math.round(performance.now() - from)} ms (bound ${WELL_MS} ms)`);
  await waitFor(async () => (await outcomes(baton)).every((one) => one === 'done'), 'every call to be done');
}

const databaseName = (url: string): string => new URL(url).pathname.slice(1);

/** With a server whose database an operator changes, through a session of his own. */
const withServer =
  (
    open: () => Promise<TestDatabase>,
    body: (baton: TestServer, database: TestDatabase) => Promise<void>,
  ): (() => Promise<void>) =>
  async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    try {
      await body(baton, database);
    } finally {
      await baton.stop();
      await database.drop();
    }
  };

const TERMINATE = `select pg_terminate_backend(pid) from pg_stat_activity
  where datname = current_database() and application_name like 'baton%' and pid <> pg_backend_pid()`;

void test(
  'a server whose way leads to a standby is away, and well by itself when it leads to the primary again',
  { skip: skipWithout15, timeout: 180_000 },
  async (t) => {
    const primary = await ownCluster();
    t.after(() => primary.remove());
    const { port, hostname: host } = new URL(primary.url);
    let proxy = await FaultProxy.start({ host, port: Number(port) });
    t.after(() => proxy.close());
    const { port: address } = proxy;
    const url = new URL(primary.url);
    url.port = String(address);
    const baton = await startTestServer(url.toString());
    t.after(() => baton.stop());
    await baton.jobs.createRun({ requestId: 'one' });
    const standby = await standbyOf(primary);
    t.after(() => standby.remove());

    const leadTo = async (to: string): Promise<void> => {
      await proxy.close();
      proxy = await FaultProxy.start({ host, port: Number(new URL(to).port), listenPort: address });
    };
    await leadTo(standby.url);
    await isAway(baton, /^503 the database is read-only/);
    // Sessions are not made again and again by calls that cannot be served.
    const before = proxy.accepted;
    const from = performance.now();
    for (let n = 0; n < 200; n += 1)
      await baton.jobs.createRun({}).catch((error: unknown) => assert.ok(error instanceof ConnectError));
    const seconds = (performance.now() - from) / 1000;
    const made = proxy.accepted - before;
    console.log(`200 calls in ${seconds.toFixed(1)} s made ${made} sessions`);
    assert.ok(made < 60 + seconds * 20, `${made} sessions in ${seconds} s`);
    await leadTo(primary.url);
    await isWellSoon(baton, 'a way to the standby');

    // The standby is promoted in its place: the connections stay, and become those of a primary.
    await leadTo(standby.url);
    await isAway(baton, /^503 the database is read-only/);
    await onDatabase(standby.url, 'select pg_promote()');
    await isWellSoon(baton, 'a standby that was promoted');
  },
);

describeOnEveryPostgresAtOnce('an operator', (open) => {
  void test(
    'closes the database for writers, with the connections of servers, and opens it again',
    withServer(open, async (baton, database) => {
      await baton.jobs.createRun({ requestId: 'one' });
      const name = databaseName(database.url);
      await database.pool.query(`alter database ${name} set default_transaction_read_only = on`);
      await database.pool.query(TERMINATE);
      await isAway(baton, /^503 the database is read-only/);
      await database.pool.transaction(async (tx) => {
        await tx.query('set transaction read write');
        await tx.query(`alter database ${name} reset default_transaction_read_only`);
      });
      await isWellSoon(baton, 'a database that was closed');
    }),
  );

  void test(
    'takes rights, or the schema, and gives them back',
    withServer(open, async (baton, database) => {
      await baton.jobs.createRun({ requestId: 'one' });
      await database.pool.query('alter schema baton rename to away');
      await isAway(baton, /^503 the database cannot be used/);
      await database.pool.query('alter schema away rename to baton');
      await isWellSoon(baton, 'a schema that was away');
    }),
  );

  void test('drops the database and makes it anew', async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    const name = databaseName(database.url);
    const admin = createPool({
      databaseUrl: database.url.replace(`/${name}`, '/postgres'),
      connections: 1,
      log: silent,
    });
    try {
      await baton.jobs.createRun({ requestId: 'one' });
      // The server connects anew at any moment, and a database in use is not renamed.
      await admin.query(`alter database ${name} allow_connections false`);
      await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [name]);
      await admin.query(`alter database ${name} rename to ${name}_kept`);
      await isAway(baton, /^503 the database cannot be used/);
      await admin.query(`create database ${name} template baton_template`);
      await isWellSoon(baton, 'a database that was dropped');
    } finally {
      await baton.stop();
      await admin.query(`drop database if exists ${name}_kept with (force)`);
      await admin.close();
      await database.drop();
    }
  });

  void test('takes the rights of a role, its password and its connections', async () => {
    const database = await open();
    const role = `worker_${process.pid}_${database.version}`;
    await database.pool.query(`create role ${role} login password 'first'`);
    const url = new URL(database.url);
    [url.username, url.password] = [role, 'first'];
    const grants = ['schema baton', 'all tables in schema baton', 'all sequences in schema baton'];
    for (const what of grants) await database.pool.query(`grant all on ${what} to ${role}`);
    const pool = createPool({ databaseUrl: url.toString(), connections: 2, log: silent });
    const look = (): Promise<unknown> => pool.query('select from baton.pipelines');
    const isRefused = (error: unknown): boolean =>
      error instanceof BatonError &&
      error.reason === 'DATABASE_UNAVAILABLE' &&
      error.retryDelayMs !== undefined;
    try {
      await look();
      await database.pool.query(`revoke all on all tables in schema baton from ${role}`);
      await assert.rejects(look(), isRefused);
      await database.pool.query(`grant all on all tables in schema baton to ${role}`);
      await look();
      await database.pool.query(`alter role ${role} nologin password 'second'`);
      await database.pool.query('select pg_terminate_backend(pid) from pg_stat_activity where usename = $1', [
        role,
      ]);
      await waitFor(() => pool.size === 0, 'the connection to be lost').catch(() => undefined);
      await assert.rejects(look(), isRefused);
      await database.pool.query(`alter role ${role} login password 'first' connection limit 0`);
      await assert.rejects(look(), isRefused);
      await database.pool.query(`alter role ${role} connection limit -1`);
      await look();
    } finally {
      await pool.close();
      await database.pool.query(`drop owned by ${role}`);
      await database.pool.query(`drop role ${role}`);
      await database.drop();
    }
  });

  void test('changes a table under kept plans', async () => {
    const database = await open();
    const pool = createPool({ databaseUrl: database.url, connections: 4, log: silent });
    const kept = { name: 'all', text: 'select * from public.changing' };
    try {
      await database.pool.query('create table public.changing (a int)');
      await Promise.all([pool.query(kept), pool.query(kept)]);
      await database.pool.query('alter table public.changing add column b int');
      const outcome = await pool.query(kept).then(
        () => 'done',
        (error: unknown) => error,
      );
      assert.ok(outcome instanceof BatonError && outcome.reason === 'DATABASE_UNAVAILABLE', String(outcome));
      assert.deepEqual(await pool.query(kept), [], 'the next one meets the new table');
      await database.pool.query('alter table public.changing add column c int');
      await assert.rejects(pool.query(kept), BatonError);
      // Whoever was idle was let go of: no other call has to learn it.
      await Promise.all(Array.from({ length: 4 }, () => pool.query(kept)));
    } finally {
      await pool.close();
      await database.drop();
    }
  });
});
