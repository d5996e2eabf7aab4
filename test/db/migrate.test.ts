/** Migrations: up, down, at once, refused where the database is newer, and wholly undone where they fail. */
import assert from 'node:assert/strict';
import { copyFile, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { DatabaseTooNewError, migrate, migrationsDir } from '../../src/store/migrate.js';
import { claimOne, create, fresh } from '../support/log_runs.js';
import { readCatalog } from '../support/log_schema.js';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { within } from '../support/wait.js';

async function names(): Promise<string[]> {
  const files = await readdir(migrationsDir());
  return files.map((file) => file.replace(/\.sql$/, '')).sort();
}

/** The program's migrations and some more, as another version of it would have them. */
async function dirWith(t: TestContext, more: Readonly<Record<string, string>>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'baton-migrations-'));
  t.after(() => rm(dir, { recursive: true }));
  for (const file of await readdir(migrationsDir()))
    await copyFile(join(migrationsDir(), file), join(dir, file));
  for (const [file, text] of Object.entries(more)) await writeFile(join(dir, file), text);
  return dir;
}

const up = (db: TestDatabase, dir?: string): Promise<string[]> =>
  within(
    migrate({ databaseUrl: db.url, log: silent, ...(dir === undefined ? {} : { dir }) }),
    'the migration',
    30_000,
  );

const applied = async (db: TestDatabase): Promise<string[]> =>
  (await db.pool.query<{ name: string }>('select name from baton.migrations order by id')).map(
    ({ name }) => name,
  );

/** Works on a database that has no schema yet. */
const empty = (
  open: Parameters<typeof fresh>[0],
  work: (db: TestDatabase, t: TestContext) => Promise<void>,
): ((t: TestContext) => Promise<void>) => {
  return (t) => fresh(open, (db) => work(db, t), 'template1')(t);
};

const SECOND =
  '-- Up Migration\ncreate table baton.second ();\n-- Down Migration\ndrop table baton.second;\n';

describeOnEveryPostgres('migrations', (open) => {
  void test(
    'up on an empty database makes one that works, and once more does nothing',
    empty(open, async (db) => {
      assert.deepEqual(await up(db), await names());
      await create(db.pool, {});
      assert.equal((await claimOne(db.pool)).run.status, 'initializing');
      assert.deepEqual(await up(db), []);
    }),
  );

  void test(
    'down takes everything back, and up makes the same again',
    empty(open, async (db) => {
      const all = await names();
      await up(db);
      await create(db.pool, {});
      const before = await readCatalog(db.pool);
      const options = { databaseUrl: db.url, log: silent, direction: 'down', count: all.length } as const;
      assert.deepEqual(await migrate(options), [...all].reverse());
      assert.deepEqual(await applied(db), []);
      const left = await db.pool.query(
        `select relname from pg_class where relnamespace = 'baton'::regnamespace and relname not like 'migrations%'
         union all select proname from pg_proc where pronamespace = 'baton'::regnamespace
         union all select typname from pg_type where typnamespace = 'baton'::regnamespace and typtype = 'e'`,
      );
      assert.deepEqual(left, []);
      await up(db);
      assert.deepEqual(await readCatalog(db.pool), before);
    }),
  );

  void test(
    'of 8 servers that start at once one migrates, and all go on',
    empty(open, async (db) => {
      const done = await Promise.all(Array.from({ length: 8 }, () => up(db)));
      assert.deepEqual(
        done.filter((list) => list.length > 0),
        [await names()],
      );
      assert.deepEqual(await applied(db), await names());
    }),
  );

  void test(
    'a database that is newer than the program is refused by name, and left alone',
    empty(open, async (db, t) => {
      await up(db, await dirWith(t, { '9998_second.sql': SECOND }));
      const before = await readCatalog(db.pool);
      for (const direction of ['up', 'down'] as const) {
        await assert.rejects(migrate({ databaseUrl: db.url, log: silent, direction }), (error) => {
          assert.ok(error instanceof DatabaseTooNewError);
          assert.match(error.message, /newer than this Baton.*\(9998_second\)/);
          return true;
        });
      }
      assert.deepEqual(await readCatalog(db.pool), before);
      assert.deepEqual(await applied(db), [...(await names()), '9998_second']);
    }),
  );

  void test(
    'a migration that fails leaves nothing of itself, and works once it is mended',
    empty(open, async (db, t) => {
      const broken = `-- Up Migration\ncreate table baton.half ();\nselect 1 / 0;\n-- Down Migration\n`;
      const dir = await dirWith(t, { '9998_second.sql': SECOND, '9999_broken.sql': broken });
      await assert.rejects(up(db, dir), /division by zero/);
      assert.deepEqual(await applied(db), [...(await names()), '9998_second'], 'those before it stay');
      const [left] = await db.pool.query(
        `select to_regclass('baton.half') is null as gone, to_regclass('baton.second') is not null as kept`,
      );
      assert.deepEqual(left, { gone: true, kept: true });
      await writeFile(join(dir, '9999_broken.sql'), broken.replace('select 1 / 0;', ''));
      assert.deepEqual(await up(db, dir), ['9999_broken']);
    }),
  );

  void test(
    'a database in use is brought up to date with its runs, and taken back with them',
    empty(open, async (db) => {
      await migrate({ databaseUrl: db.url, log: silent, count: 1 });
      await db.pool.query('insert into baton.runs (priority) select g % 3 from generate_series(1, 20) g');
      await db.pool.query(
        `update baton.runs set status = 'initializing' where id in (select id from baton.runs limit 5)`,
      );
      const look = (): Promise<unknown[]> =>
        db.pool.query(
          'select id, status, version, update_time, claimable_time, attempt_time from baton.runs order by id',
        );
      const before = await look();
      await up(db);
      assert.deepEqual(await look(), before);
      assert.equal((await claimOne(db.pool)).run.status, 'initializing');
      const after = await look();
      const count = (await names()).length - 1;
      await migrate({ databaseUrl: db.url, log: silent, direction: 'down', count });
      assert.deepEqual(await look(), after);
      await db.pool.query(`update baton.runs set status = 'success'`);
    }),
  );

  void test(
    'a server of the next version migrates while one of this version writes',
    fresh(open, async (db) => {
      const client = await db.connect();
      await client.query('begin');
      await client.query('insert into baton.runs default values');
      assert.deepEqual(await up(db), [], 'a start beside an open transaction waits for nothing');
      await client.query('commit');
    }),
  );
});
