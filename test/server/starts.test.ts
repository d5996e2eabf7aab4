/** A start: what it refuses, whom it waits for, and that every moment of it obeys a signal. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import pg from 'pg';
import { migrate } from '../../src/store/migrate.js';
import { Cleanup } from '../support/cleanup.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnEveryPostgres, silent, type TestDatabase } from '../support/database.js';
import { ANY_PORT, ServerProcess, temporaryDir, type BatonProcess } from '../support/process.js';
import { assertTook, waitFor, within } from '../support/wait.js';

const MIGRATION_LOCK = 477355191;
/** Asserted at ten times its value and printed. */
const STOP_MS = 1000;

function start(
  cleanup: Cleanup,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
  cwd?: string,
): ServerProcess {
  const server = new ServerProcess(args, { env, ...(cwd === undefined ? {} : { cwd }) });
  cleanup.push(async () => {
    server.child.kill('SIGKILL');
    await server.exited;
  });
  return server;
}

const SERVE = ['serve', ...ANY_PORT];

const says = (server: BatonProcess, pattern: RegExp): Promise<void> =>
  waitFor(() => pattern.test(server.stderr), `${pattern} on standard error`, 20_000);

/** Ends a server during its start. False when the start was over before the signal came. */
async function endsDuringStart(
  server: BatonProcess,
  when: string,
  code = 0,
  boundMs = STOP_MS,
): Promise<boolean> {
  const from = performance.now();
  assert.equal(await server.end('SIGTERM'), code, server.stderr);
  if (server.stdout !== '') return false;
  assertTook(`SIGTERM ${when}: the end`, performance.now() - from, boundMs);
  return true;
}

async function endsAtOnce(
  server: BatonProcess,
  when: string,
  code?: number,
  boundMs?: number,
): Promise<void> {
  assert.ok(await endsDuringStart(server, when, code, boundMs), server.stdout);
}

/** A peer that takes connections and says nothing. */
async function blackHole(
  cleanup: Cleanup,
): Promise<{ readonly url: string; readonly connections: () => number }> {
  let connections = 0;
  const server = createServer((socket) => {
    connections += 1;
    socket.on('error', () => undefined);
    cleanup.push(() => Promise.resolve(socket.destroy()));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup.push(() => Promise.resolve(server.close()));
  const { port } = server.address() as AddressInfo;
  return { url: `postgresql://u:secret@127.0.0.1:${port}/db`, connections: () => connections };
}

async function holdLock(database: TestDatabase): Promise<pg.Client> {
  const holder = new pg.Client({ connectionString: database.url, application_name: 'psql of ann' });
  await holder.connect();
  await holder.query('select pg_advisory_lock($1)', [MIGRATION_LOCK]);
  return holder;
}

void test('a start obeys SIGTERM while it waits for a database that is not there', async (t) => {
  const server = start(new Cleanup(t), SERVE, { DATABASE_URL: 'postgresql://u:secret@127.0.0.1:1/db' });
  await says(server, /does not answer yet/);
  await endsAtOnce(server, 'while nothing answers');
  assert.doesNotMatch(server.stderr, /secret/);
});

for (const args of [SERVE, ['migrate']])
  void test(`a start obeys SIGTERM while it connects to a black hole: ${args[0]}`, async (t) => {
    const cleanup = new Cleanup(t);
    const hole = await blackHole(cleanup);
    const server = start(cleanup, args, { DATABASE_URL: hole.url });
    await waitFor(() => hole.connections() > 0, 'a connection', 20_000);
    await endsAtOnce(server, `in a black hole (${args[0]})`, args[0] === 'migrate' ? 1 : 0);
  });

void test('a start obeys SIGTERM while it makes the embedded PostgreSQL, and leaves none behind', async (t) => {
  const cleanup = new Cleanup(t);
  // At the places that can be seen from outside, in their order.
  for (const made of ['server.lock', 'postgres', 'postgres/postmaster.pid', 'postgres.port']) {
    const dir = await temporaryDir();
    cleanup.push(() => dir.remove());
    const server = start(cleanup, SERVE, {}, dir.path);
    await waitFor(() => existsSync(join(dir.path, '.baton', made)), `${made} to be made`, 20_000);
    assert.equal(await server.end('SIGTERM'), 0, `${made}: ${server.stderr}`);
    assert.ok(!existsSync(join(dir.path, '.baton', 'postgres', 'postmaster.pid')), 'PostgreSQL is left');
    const again = await start(cleanup, SERVE, {}, dir.path).ready();
    assert.equal(await again.end(), 0);
  }
});

describeOnEveryPostgres('a start', (open) => {
  const withDatabase =
    (
      template: 'baton_template' | 'template1',
      body: (database: TestDatabase, cleanup: Cleanup) => Promise<void>,
    ): ((t: TestContext) => Promise<void>) =>
    async (t) => {
      const cleanup = new Cleanup(t);
      const database = await open(template);
      cleanup.push(() => database.drop());
      await body(database, cleanup);
    };

  void test(
    'names who holds the lock of migrations, goes on when it is free, and obeys SIGTERM meanwhile',
    withDatabase('template1', async (database, cleanup) => {
      const holder = await holdLock(database);
      cleanup.push(() => holder.end());
      const env = { DATABASE_URL: database.url };
      const [first, second] = [start(cleanup, SERVE, env), start(cleanup, SERVE, env)];
      const { rows } = await holder.query<{ pid: number }>('select pg_backend_pid() as pid');
      const line = new RegExp(
        `waiting for the lock of migrations.*process ${rows[0]?.pid} \\(psql of ann, role \\w+, from 127\\.0\\.0\\.1:\\d+, `,
      );
      await Promise.all([says(first, line), says(second, line)]);
      await endsAtOnce(first, 'while the lock is held');
      await holder.query('select pg_advisory_unlock($1)', [MIGRATION_LOCK]);
      await second.ready();
      assert.equal(await second.end(), 0);
    }),
  );

  void test(
    'waits for a holder that is at work, and refuses one that does nothing, saying how to end it',
    withDatabase('template1', async (database, cleanup) => {
      const holder = await holdLock(database);
      holder.on('error', () => undefined);
      cleanup.push(() => holder.end().catch(() => undefined));
      const options = { databaseUrl: database.url, log: silent };
      const lockTimes = { firstLineMs: 100, strandedMs: 500 };
      // Far longer than the time after which a holder counts as one that has forgotten the lock.
      const busy = holder.query('select pg_sleep(3)').then(() => 'slept');
      const waiting = migrate({ ...options, lockTimes }).then(
        () => 'migrated',
        (error: unknown) => error,
      );
      assert.equal(await Promise.race([busy, waiting]), 'slept');
      const error = await within(waiting, 'the holder to count as idle', 30_000);
      assert.ok(error instanceof Error, String(error));
      const [, command = ''] = /end it: (select .*;)$/.exec(error.message) ?? [];
      assert.match(error.message, /psql of ann/);
      await database.pool.query(command);
      assert.ok((await migrate(options)).length > 0);
    }),
  );

  void test(
    'obeys SIGTERM while a migration waits for a table, and leaves nothing of it',
    withDatabase('template1', async (database, cleanup) => {
      await migrate({ databaseUrl: database.url, log: silent, count: 1 });
      const holder = await database.connect();
      await holder.query('begin; lock table baton.runs in access share mode');
      const server = start(cleanup, SERVE, { DATABASE_URL: database.url });
      const waits = `select from pg_stat_activity
        where application_name = 'baton migrate' and wait_event_type = 'Lock' and datname = current_database()`;
      await waitFor(
        async () => (await database.pool.query(waits)).length > 0,
        'the migration to wait',
        20_000,
      );
      await endsAtOnce(server, 'while a migration waits');
      const all = `select from pg_stat_activity where application_name like 'baton migrate' and datname = current_database()`;
      await waitFor(async () => (await database.pool.query(all)).length === 0, 'its backend to be gone');
      await holder.query('rollback');
      assert.ok((await migrate({ databaseUrl: database.url, log: silent })).length > 0);
    }),
  );

  void test(
    'obeys SIGTERM while the service waits for a table',
    withDatabase('baton_template', async (database, cleanup) => {
      const holder = await database.connect();
      await holder.query('begin; lock table baton.log in access exclusive mode');
      const server = start(cleanup, SERVE, { DATABASE_URL: database.url });
      const waits = `select from pg_stat_activity
        where application_name = 'baton watch' and wait_event_type = 'Lock' and datname = current_database()`;
      await waitFor(async () => (await database.pool.query(waits)).length > 0, 'the service to wait', 20_000);
      // By itself it would give up after 3 s.
      await endsAtOnce(server, 'while the service waits', 0, 250);
    }),
  );

  void test(
    'obeys SIGTERM while the database goes silent, at whatever place',
    withDatabase('baton_template', async (database, cleanup) => {
      const { proxy, url } = await FaultProxy.before(database.url);
      cleanup.push(() => proxy.close());
      let ended = 0;
      for (const afterBytes of [100, 1500, 2500, 3500, 4500]) {
        proxy.mode = 'pass';
        const from = proxy.bytes.toClient;
        const server = start(cleanup, SERVE, { DATABASE_URL: url });
        await waitFor(
          () => proxy.bytes.toClient - from >= afterBytes || server.stdout !== '',
          'some answers',
          20_000,
        );
        proxy.mode = 'half-open';
        // The last bytes of a start may come while this looks.
        if (await endsDuringStart(server, `after ${afterBytes} bytes`)) ended += 1;
      }
      assert.ok(ended > 0, 'no signal came during a start');
    }),
  );

  void test(
    'names what a role lacks, and where a password is looked for',
    withDatabase('template1', async (database, cleanup) => {
      const name = new URL(database.url).pathname.slice(1);
      const role = `lacking_${process.pid}_${database.version}`;
      await database.pool.query(`create role ${role} login password 'secret'`);
      cleanup.push(() => database.pool.query(`drop role ${role}`));
      const url = new URL(database.url);
      [url.username, url.password] = [role, 'secret'];
      for (const args of [SERVE, ['migrate']]) {
        const server = start(cleanup, args, { DATABASE_URL: url.toString() });
        assert.equal(await within(server.exited, 'it to refuse', 20_000), 1);
        assert.match(
          server.stderr,
          new RegExp(`permission denied for database ${name}.*grant connect, create`),
        );
        assert.doesNotMatch(server.stderr, /secret/);
      }
      // Debian's cluster of the tests trusts whoever is on its machine.
      if (new URL(database.url).password === '') return;
      url.password = '';
      for (const args of [SERVE, ['migrate']]) {
        const nowhere = { PGPASSWORD: undefined, PGPASSFILE: '/nonexistent', HOME: '/nonexistent' };
        const server = start(cleanup, args, { DATABASE_URL: url.toString(), ...nowhere });
        assert.equal(await within(server.exited, 'it to refuse', 20_000), 1);
        assert.match(server.stderr, /it asks for a password, and there is none: .*PGPASSWORD/);
      }
    }),
  );

  void test(
    'refuses a database that is not UTF8',
    withDatabase('baton_template', async (database, cleanup) => {
      const url = new URL(database.url);
      for (const encoding of ['SQL_ASCII', 'LATIN1']) {
        const name = `${url.pathname.slice(1)}_${encoding.toLowerCase()}`;
        await database.pool.query(
          `create database ${name} encoding '${encoding}' locale_provider libc locale 'C' template template0`,
        );
        cleanup.push(() => database.pool.query(`drop database ${name}`));
        const other = new URL(url);
        other.pathname = `/${name}`;
        for (const args of [SERVE, ['migrate']]) {
          const server = start(cleanup, args, { DATABASE_URL: other.toString() });
          assert.equal(await within(server.exited, 'it to refuse', 20_000), 1);
          assert.match(
            server.stderr,
            new RegExp(`encoding of the database is ${encoding}; Baton needs UTF8`),
          );
        }
      }
    }),
  );
});
