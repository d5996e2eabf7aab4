/** Baton behind PgBouncer: what works, and what a server says where it cannot. */
import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';
import { Cleanup } from '../support/cleanup.js';
import { migrate } from '../../src/store/migrate.js';
import { describeOnPostgres, silent, type Open, type TestDatabase } from '../support/database.js';
import { skipWithoutPgbouncer, startPgbouncer, type Pgbouncer } from '../support/pgbouncer.js';
import { ANY_PORT, BatonProcess, ServerProcess } from '../support/process.js';
import { within } from '../support/wait.js';

type Settings = Readonly<Record<string, string>>;

/** A test's database, its poolers and its servers. */
class Rig {
  readonly #cleanup: Cleanup;
  #database: TestDatabase | undefined;

  constructor(t: TestContext) {
    this.#cleanup = new Cleanup(t);
  }

  async database(open: Open, template?: 'baton_template' | 'template1'): Promise<TestDatabase> {
    const database = await open(template);
    this.#database = database;
    this.#cleanup.push(() => database.drop());
    return database;
  }

  async pooler(mode: 'transaction' | 'session' = 'transaction', settings: Settings = {}): Promise<Pgbouncer> {
    assert.ok(this.#database);
    const pooler = await startPgbouncer(this.#database.url, mode, settings);
    this.#cleanup.push(() => pooler.stop());
    return pooler;
  }

  serve(env: NodeJS.ProcessEnv): ServerProcess {
    const server = new ServerProcess(['serve', ...ANY_PORT], { env });
    this.#cleanup.push(async () => {
      server.child.kill('SIGKILL');
      await server.exited;
    });
    return server;
  }
}

async function refuses(server: BatonProcess, ...patterns: readonly RegExp[]): Promise<void> {
  assert.equal(await within(server.exited, 'the command to refuse', 30_000), 1, server.stderr);
  for (const pattern of patterns) assert.match(server.stderr, pattern);
}

/** A run from its creation to its end, while others do the same: statements of many callers share sessions. */
async function work(server: ServerProcess): Promise<void> {
  const call = async (method: string, body: unknown): Promise<Record<string, unknown>> => {
    const { status, json } = await server.call(method, body);
    assert.equal(status, 200, `${method}: ${JSON.stringify(json)}\n${server.stderr}`);
    return json;
  };
  const one = async (n: number): Promise<void> => {
    await call('CreateRun', { repository: `r${n}`, ...(n % 2 === 0 ? {} : { requestId: `id-${n}` }) });
    const { claims } = await call('ClaimNext', { stage: 'initialize', workerId: `w${n}`, wait: '10s' });
    const { run, leaseToken } = (claims as { run: { id: string }; leaseToken: string }[])[0]!;
    await call('ExtendLeases', { leases: [{ runId: run.id, leaseToken, progress: 0.5 }] });
    await call('UpdateStatus', { runId: run.id, leaseToken, status: 'initialized', output: { n } });
    await call('GetRun', { id: run.id });
  };
  await Promise.all(Array.from({ length: 30 }, (_, n) => one(n)));
  const { runs } = await call('ListRuns', { filter: { statuses: ['initialized'] } });
  assert.equal((runs as unknown[]).length, 30);
}

const LOCKS = `select count(*)::int as n from pg_locks where locktype = 'advisory' and objid = 477355191`;

void describe('PgBouncer', { skip: skipWithoutPgbouncer }, () => {
  describeOnPostgres('in transaction mode', (open) => {
    void test('with a direct way beside it: migrates there, and all calls work', async (t) => {
      const rig = new Rig(t);
      const database = await rig.database(open, 'template1');
      const pooler = await rig.pooler();
      const server = await rig.serve({ DATABASE_URL: pooler.url, BATON_LISTEN_URL: database.url }).ready();
      await work(server);
      assert.equal(await server.end(), 0);
      assert.deepEqual(await database.pool.query(LOCKS), [{ n: 0 }], 'a lock is stranded in the pooler');
    });

    void test('without one: is refused with what to set, and leaves no lock behind', async (t) => {
      const rig = new Rig(t);
      const database = await rig.database(open, 'template1');
      const pooler = await rig.pooler();
      await refuses(rig.serve({ DATABASE_URL: pooler.url }), /pooler/, /BATON_LISTEN_URL/, /BATON_NO_LISTEN/);
      await refuses(
        rig.serve({ DATABASE_URL: pooler.url, BATON_LISTEN_URL: pooler.url }),
        /BATON_LISTEN_URL leads to a pooler/,
      );
      await refuses(new BatonProcess(['migrate'], { env: { DATABASE_URL: pooler.url } }), /BATON_LISTEN_URL/);
      const rows = await database.pool.query(`select to_regnamespace('baton') is null as untouched`);
      assert.deepEqual([rows, await database.pool.query(LOCKS)], [[{ untouched: true }], [{ n: 0 }]]);
    });

    void test('and a direct way to another database: is refused before either is changed', async (t) => {
      const rig = new Rig(t);
      const other = await rig.database(open, 'template1');
      const database = await rig.database(open, 'template1');
      const pooler = await rig.pooler();
      const nameOf = ({ url }: TestDatabase): string => new URL(url).pathname.slice(1);
      await refuses(
        rig.serve({ DATABASE_URL: pooler.url, BATON_LISTEN_URL: other.url }),
        new RegExp(
          `BATON_LISTEN_URL leads to the database ${nameOf(other)}, and DATABASE_URL to ${nameOf(database)}:`,
        ),
      );
      for (const { pool } of [other, database]) {
        const rows = await pool.query(`select to_regnamespace('baton') is null as untouched`);
        assert.deepEqual(rows, [{ untouched: true }]);
      }
    });

    void test('that drops settings silently is found out', async (t) => {
      const settings = { ignore_startup_parameters: 'options' };
      const rig = new Rig(t);
      await rig.database(open);
      const pooler = await rig.pooler('transaction', settings);
      await refuses(rig.serve({ DATABASE_URL: pooler.url }), /pooler/, /BATON_LISTEN_URL/);
    });

    void test('alone, without LISTEN: works on a schema that is there, and names what is missing else', async (t) => {
      const rig = new Rig(t);
      const database = await rig.database(open, 'template1');
      const pooler = await rig.pooler();
      const env = { DATABASE_URL: pooler.url, BATON_NO_LISTEN: '1' };
      await refuses(rig.serve(env), /lacks the migrations 0001_core/, /baton migrate/);
      const direct = new BatonProcess(['migrate'], {
        env: { DATABASE_URL: pooler.url, BATON_LISTEN_URL: database.url },
      });
      assert.equal(await within(direct.exited, 'the migration', 30_000), 0, direct.stderr);
      assert.match(direct.stdout, /applied: 0001_core/);
      await work(await rig.serve(env).ready());
      await migrate({ databaseUrl: database.url, log: silent, direction: 'down' });
    });

    void test('to sessions that are unfit: is refused with what to run, and works after it', async (t) => {
      const rig = new Rig(t);
      const database = await rig.database(open);
      const name = new URL(database.url).pathname.slice(1);
      const hostile = {
        DateStyle: 'German',
        default_transaction_isolation: 'serializable',
        array_nulls: 'off',
        extra_float_digits: '0',
      };
      for (const [setting, value] of Object.entries(hostile))
        await database.pool.query(`alter database ${name} set ${setting} = '${value}'`);
      const fresh = await rig.pooler();
      const server = rig.serve({ DATABASE_URL: fresh.url, BATON_LISTEN_URL: database.url });
      await refuses(server, ...Object.keys(hostile).map((setting) => new RegExp(`set ${setting} = `)));
      const run = /Run: (alter role .*;) Then/.exec(server.stderr)?.[1] ?? '';
      await database.pool.query(run);
      const again = await rig.pooler();
      await work(await rig.serve({ DATABASE_URL: again.url, BATON_LISTEN_URL: database.url }).ready());
      await database.pool.query(run.replaceAll(/set (\S+) = '[^']*'/g, 'reset $1'));
    });
  });

  describeOnPostgres('in session mode', (open) => {
    void test('is like one in transaction mode: it wants a direct way', async (t) => {
      const rig = new Rig(t);
      const database = await rig.database(open);
      // A session each, as many as a server opens.
      const pooler = await rig.pooler('session', { default_pool_size: '30' });
      await refuses(rig.serve({ DATABASE_URL: pooler.url }), /BATON_LISTEN_URL/);
      await work(await rig.serve({ DATABASE_URL: pooler.url, BATON_LISTEN_URL: database.url }).ready());
    });
  });
});
