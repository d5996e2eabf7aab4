/** Sessions depend on nothing that a role, a database or a URL sets. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createPool } from '../../src/store/pool.js';
import { CHECKED_SETTINGS, SESSION_SETTINGS, sessionConfig } from '../../src/store/session.js';
import { migrate } from '../../src/store/migrate.js';
import pg from 'pg';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { liveThrough } from '../support/life.js';
import { startTestServer } from '../support/server.js';
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
