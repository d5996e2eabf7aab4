/**
 * The schema that the migrations make. test/schema/schema.sql is its dump, so that a review sees what a migration
 * changes; after a change of migrations/ renew it with `BATON_UPDATE_SCHEMA=1 npm test -- schema`. The dump is made by
 * the pg_dump of PostgreSQL 15, the oldest that is supported; that 18 makes the same is compared by the catalogs.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type pg from 'pg';
import { EVENT_TYPES, RUN_STATES } from '../../src/run/run.js';
import { createDatabase, describeOnEveryPostgres } from '../support/database.js';
import { findPostgres15 } from '../support/debian_cluster.js';
import { fresh } from '../support/log_runs.js';
import { readCatalog } from '../support/log_schema.js';

const run = promisify(execFile);

/** In the sources, not beside the compiled test: a dump that was renewed is to be committed. */
const DUMP = fileURLToPath(new URL('../../../test/schema/schema.sql', import.meta.url));
const HEADER =
  '-- Made by pg_dump from the migrations; test/db/schema.test.ts compares it and says how to renew it.\n\n';
const URLS = [process.env['BATON_TEST_PG15_URL'], process.env['BATON_TEST_PG18_URL']] as const;

/** Without what differs from one minor version of pg_dump, or one dump, to the next. */
function clean(dump: string): string {
  const lines = dump
    .split('\n')
    .filter((line) => !/^(--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict )/.test(line));
  return (
    HEADER +
    `${lines
      .join('\n')
      .replaceAll(/\n{3,}/g, '\n\n')
      .trim()}\n`
  );
}

const required = process.env['BATON_REQUIRE_ALL'] === '1';
const [url15, url18] = URLS;
const missing15 =
  url15 === undefined && !required ? 'PostgreSQL 15 and its pg_dump are not installed' : false;

void test('the committed dump is what the migrations make', { skip: missing15 }, async (t) => {
  const binDir = findPostgres15();
  assert.ok(url15 !== undefined && binDir !== undefined, 'PostgreSQL 15 is required');
  const db = await createDatabase(url15, 15);
  t.after(() => db.drop());
  // What the migration tool keeps for itself is not Baton's schema.
  const { stdout } = await run(join(binDir, 'pg_dump'), [
    '--schema-only',
    '--schema=baton',
    '--exclude-table=baton.migrations*',
    '--no-owner',
    '--no-privileges',
    db.url,
  ]);
  const actual = clean(stdout);
  if (process.env['BATON_UPDATE_SCHEMA'] === '1') await writeFile(DUMP, actual);
  assert.equal(
    actual,
    await readFile(DUMP, 'utf8'),
    'migrations and dump differ; renew it with BATON_UPDATE_SCHEMA=1 npm test -- schema',
  );
});

void test('PostgreSQL 15 and 18 make the same', { skip: missing15 }, async (t) => {
  assert.ok(url15 !== undefined && url18 !== undefined, 'PostgreSQL 15 and 18 are required');
  const [old, recent] = [await createDatabase(url15, 15), await createDatabase(url18, 18)];
  t.after(() => Promise.all([old.drop(), recent.drop()]));
  assert.deepEqual(await readCatalog(old.pool), await readCatalog(recent.pool));
});

describeOnEveryPostgres('the schema', (open) => {
  void test(
    'every constraint has a name that somebody gave it',
    fresh(open, async (db) => {
      const entries = (await readCatalog(db.pool)).filter(
        ({ kind, owner }) => kind === 'constraint' && owner !== 'baton.migrations',
      );
      assert.ok(entries.length > 20, `only ${entries.length} constraints were found`);
      // PostgreSQL's own names: table_column_check, _check1, _not_null, _fkey1, _excl; ours say what holds.
      const generated = entries.filter(({ name }) =>
        /_(check|not_null|excl)\d*$|_(fkey|key|pkey)\d+$/.test(name),
      );
      assert.deepEqual(generated, []);
    }),
  );

  void test(
    'the sequence of revisions hands out one number at a time, and never starts again',
    fresh(open, async (db) => {
      const rows = await db.pool.query(
        `select sequencename, start_value, increment_by, cache_size, cycle from pg_sequences
         where schemaname = 'baton' and sequencename = 'revision'`,
      );
      assert.deepEqual(rows, [
        { sequencename: 'revision', start_value: 1n, increment_by: 1n, cache_size: 1n, cycle: false },
      ]);
    }),
  );

  void test(
    'the enums are those of the program, and the ci pipeline comes with the schema',
    fresh(open, async (db) => {
      const entries = (await readCatalog(db.pool)).filter(({ kind }) => kind === 'enum');
      assert.deepEqual(
        entries.map(({ name, definition }) => [name, definition.split(' ')]),
        [
          ['baton.event_type', [...EVENT_TYPES]],
          ['baton.run_state', [...RUN_STATES]],
        ],
      );
      const rows = await db.pool.query(
        'select pipeline, status, stage, state from baton.pipeline_statuses order by status',
      );
      assert.deepEqual(
        rows.map((row) => Object.values(row)),
        [
          ['ci', 'canceled', '', 'CANCELED'],
          ['ci', 'error', '', 'FAILED'],
          ['ci', 'initialized', 'run', 'PENDING'],
          ['ci', 'initializing', 'initialize', 'ACTIVE'],
          ['ci', 'new', 'initialize', 'PENDING'],
          ['ci', 'running', 'run', 'ACTIVE'],
          ['ci', 'success', '', 'SUCCEEDED'],
        ],
      );
    }),
  );

  void test(
    'the functions work whatever a session calls by their names',
    fresh(open, async (db) => {
      const client: pg.Client = await db.connect();
      // A schema in front of pg_catalog, with functions of the same names that fail.
      await client.query(`create schema trap`);
      for (const name of ['clock_timestamp()', 'gen_random_uuid()', 'jsonb_typeof(jsonb)', 'length(text)'])
        await client.query(
          `create function trap.${name} returns text language plpgsql as $$ begin raise 'trapped'; end $$`,
        );
      await client.query(`set search_path to trap, pg_catalog`);
      await client.query('insert into baton.runs default values');
      await client.query(`update baton.runs set status = 'initializing'`);
    }),
  );
});
