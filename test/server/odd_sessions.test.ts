/** Sessions depend on nothing that a role, a database or a URL sets. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createPool } from '../../src/store/pool.js';
import { CHECKED_SETTINGS, SESSION_SETTINGS, sessionConfig } from '../../src/store/session.js';
import { migrate } from '../../src/store/migrate.js';
import pg from 'pg';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { Watching } from '../support/watching.js';
import { within } from '../support/wait.js';

/** Values that each change an answer, fail a statement, end a session or take another plan. */
const HOSTILE: Readonly<Record<string, string>> = {
  DateStyle: 'German, DMY',
  IntervalStyle: 'iso_8601',
  TimeZone: 'Asia/Kathmandu',
  extra_float_digits: '-15',
  bytea_output: 'escape',
  client_encoding: 'LATIN1',
  array_nulls: 'off',
  standard_conforming_strings: 'off',
  transform_null_equals: 'on',
  quote_all_identifiers: 'on',
  search_path: 'evil, pg_catalog',
  row_security: 'off',
  default_transaction_isolation: 'serializable',
  default_transaction_deferrable: 'on',
  statement_timeout: '1',
  idle_in_transaction_session_timeout: '1',
  idle_session_timeout: '1',
  lock_timeout: '1',
  plan_cache_mode: 'force_custom_plan',
  jit: 'on',
  // Not Baton's to set, and of no consequence.
  jit_above_cost: '0',
  enable_nestloop: 'off',
  enable_indexscan: 'off',
  work_mem: '64',
  xmlbinary: 'hex',
  check_function_bodies: 'off',
  default_statistics_target: '1',
};

async function makeHostile(database: TestDatabase): Promise<void> {
  const name = new URL(database.url).pathname.slice(1);
  // What somebody has made in front of the functions that statements use.
  await database.pool.query('create schema evil');
  for (const made of ['coalesce_', 'greatest_']) await database.pool.query(`create table evil.${made} ()`);
  await database.pool.query(
    `create function evil.clock_timestamp() returns timestamptz language sql as 'select null::timestamptz'`,
  );
  await database.pool.query(
    `create function evil.statement_timestamp() returns timestamptz language sql as 'select null::timestamptz'`,
  );
  for (const [setting, value] of Object.entries(HOSTILE)) {
    // A list of schemas is not one text.
    const list = setting === 'search_path' ? value : `'${value}'`;
    await database.pool.query(`alter database ${name} set ${setting} = ${list}`);
  }
}

/** A life of runs, in all that is read and written on the way: times, numbers, texts, arrays with and without null. */
async function liveThrough(baton: TestServer): Promise<void> {
  const { jobs, pipelines } = baton;
  const scheduleTime = { seconds: 1_893_456_000n, nanos: 123_000_000 };
  const requests = [
    { repository: 'NULL', labels: { a: '\\x41', ü: '"\\' }, input: { text: 'Zürich \\n €', n: 0.1 + 0.2 } },
    { repository: 'later', scheduleTime, requestId: 'one', priority: 9 },
  ];
  const { runs } = await jobs.batchCreateRuns({ requests });
  assert.deepEqual(runs[1]?.scheduleTime?.seconds, scheduleTime.seconds);
  const again = await jobs.batchCreateRuns({ requests: [requests[1]!] });
  assert.equal(again.runs[0]?.id, runs[1]?.id);
  const watching = new Watching(jobs, { after: 'oldest' });
  const { claims } = await jobs.claimNext({ stage: 'initialize', workerId: 'NULL', requestId: 'claim' });
  const [claim] = claims;
  assert.ok(claim?.run);
  const lease = Number(claim.leaseExpireTime?.seconds) * 1000 - Date.now();
  assert.ok(lease > 30_000 && lease < 90_000, `a lease of ${lease} ms`);
  const { leaseToken } = claim;
  await jobs.extendLeases({ leases: [{ runId: claim.run.id, leaseToken, progress: 0.123456789012 }] });
  const updated = await jobs.updateStatus({
    ...{ runId: claim.run.id, leaseToken, status: 'initialized', output: { '€': ['\\', 1e-7] } },
    claimNext: { stage: 'run', workerId: 'two' },
  });
  assert.equal(updated.claims[0]?.run?.id, claim.run.id);
  assert.deepEqual(updated.claims[0].run.output, { '€': ['\\', 1e-7] });
  const { run } = await jobs.getRun({ id: claim.run.id });
  assert.deepEqual(
    [run?.repository, run?.labels, run?.input],
    ['NULL', requests[0]?.labels, requests[0]?.input],
  );
  assert.ok(Math.abs(Number(run?.createTime?.seconds) - Date.now() / 1000) < 60, 'the time of creation');
  assert.equal((await jobs.listRuns({})).runs.length, 2);
  assert.equal((await jobs.listRunEvents({ runId: claim.run.id })).events.length, 5);
  await pipelines.putPipeline({
    pipeline: {
      name: 'other',
      stages: [
        {
          name: 'only',
          waitingStatus: 'waits',
          processingStatus: 'busy',
          doneStatus: 'done',
          backoff: { multiplier: 1.1, jitter: 0.1 },
        },
      ],
      schedules: [{ name: 'nightly', cron: '0 3 * * *', timeZone: 'Europe/Berlin' }],
    },
  });
  const { pipeline } = await pipelines.getPipeline({ name: 'other' });
  assert.equal(pipeline?.stages[0]?.backoff?.multiplier, 1.1);
  assert.ok(Number(pipeline.schedules[0]?.nextTime?.seconds) * 1000 > Date.now());
  assert.equal((await pipelines.getStats({ pipeline: 'ci' })).pipelines.length, 1);
  const canceled = await jobs.cancelRuns({ filter: { repository: 'later' } });
  assert.equal(Number(canceled.canceledCount), 1);
  await watching.hasEvents(7);
  await watching.cancel();
}

describeOnEveryPostgres('sessions', (open) => {
  void test('a server works where every setting is hostile', async () => {
    const database = await open();
    await makeHostile(database);
    const baton = await startTestServer(database.url);
    try {
      await liveThrough(baton);
    } finally {
      await baton.stop();
      await database.drop();
    }
  });

  void test('migrations work where every setting is hostile', async () => {
    const database = await open('template1');
    await makeHostile(database);
    const options = { databaseUrl: database.url, log: silent };
    const done = await migrate(options);
    assert.deepEqual(
      await migrate({ ...options, direction: 'down', count: done.length }),
      [...done].reverse(),
    );
    await database.drop();
  });

  void test("each setting is Baton's, whatever the database, the role and the URL say", async () => {
    const database = await open();
    await makeHostile(database);
    const url = new URL(database.url);
    const inUrl = Object.entries(HOSTILE).map(
      ([name, value]) => `-c ${name}=${value.replaceAll(' ', '\\ ')}`,
    );
    url.searchParams.set('options', `${inUrl.join(' ')} -c work_mem=77MB`);
    for (const name of ['statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout'])
      url.searchParams.set(name, '1');
    const databaseUrl = url.toString();
    const names = SESSION_SETTINGS.map(({ name }) => name.toLowerCase());
    const look = `select lower(name) as name, setting from pg_settings where lower(name) = any ($1)`;
    const pool = createPool({ databaseUrl, connections: 2, log: silent });
    const client = new pg.Client(sessionConfig({ databaseUrl, name: 'test' }));
    await client.connect();
    try {
      const kept = { name: 'look', text: look };
      for (const [rows, changed] of [
        [await pool.query(look, [names]), { lock_timeout: '3000' }],
        [await pool.query(kept, [names]), { lock_timeout: '3000', plan_cache_mode: 'force_generic_plan' }],
        [(await client.query(look, [names])).rows, {}],
      ] as const) {
        const found = Object.fromEntries(rows.map((row) => [row['name'], row['setting']]));
        const wanted = Object.fromEntries(
          SESSION_SETTINGS.map(({ name, value }) => [name.toLowerCase(), value]),
        );
        assert.deepEqual(found, { ...wanted, ...changed });
      }
      assert.deepEqual(await pool.query('show work_mem'), [{ work_mem: '77MB' }], "the URL's own is kept");
      assert.deepEqual(
        SESSION_SETTINGS.filter(({ name }) => HOSTILE[name] === undefined),
        [],
        'each is among those that were set otherwise',
      );
    } finally {
      await client.end();
      await pool.close();
      await database.drop();
    }
  });

  for (const { name, value } of CHECKED_SETTINGS) {
    void test(`what cannot be sent is asked for by name: ${name}`, async (t) => {
      const database = await open();
      try {
        if (name === 'transaction_timeout' && database.version < 17)
          return t.skip('unknown to this PostgreSQL');
        const dbname = new URL(database.url).pathname.slice(1);
        const hostile = name === 'transaction_timeout' ? '5min' : 'replica';
        await database.pool.query(`alter database ${dbname} set ${name} = '${hostile}'`);
        const server = new ServerProcess(['serve', ...ANY_PORT, '--database-url', database.url]);
        assert.equal(await within(server.exited, 'the server to refuse', 20_000), 1);
        const [, command = ''] = /Run: (alter role .*;)/.exec(server.stderr) ?? [];
        assert.match(command, new RegExp(`set ${name} = '${value}';$`), server.stderr);
        await database.pool.query(command);
        const mended = await startTestServer(database.url);
        await mended.jobs.createRun({});
        await mended.stop();
        await database.pool.query(command.replace(/set (\S+) = .*/, 'reset $1'));
      } finally {
        await database.drop();
      }
    });
  }
});
