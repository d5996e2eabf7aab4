/**
 * A worker that knows only SQL: one UPDATE takes a run, another one moves it on. The database derives what belongs to
 * the status, refuses what the pipeline lacks, and fences such workers and those with leases off from each other.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import pg from 'pg';
import { expireLeases } from '../../src/store/sql/expire_leases.js';
import { getRun } from '../../src/store/sql/get_run.js';
import { violates } from '../../src/store/violation.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { TailingReader } from '../support/log_reader.js';
import { claim, claimOne, create, endLease, fresh, insertBySql, must, update } from '../support/log_runs.js';
import { assertWellFormed } from '../support/log_verify.js';

const TAKE = `
update baton.runs set status = 'initializing'
where id = (
  select id from baton.runs where status = 'new' order by priority desc, create_time limit 1 for update skip locked)
returning *`;

interface Row {
  id: string;
  stage: string;
  status: string;
  state: string;
  attempt: number;
  worker_id: string;
  lease_id: string | null;
  lease_ms: string | null;
  lease_expire_time: Date | null;
  version: string;
}

async function take(client: pg.Client): Promise<Row | undefined> {
  return (await client.query<Row>(TAKE)).rows[0];
}

/** What the statement was refused with: the constraint, the message and the hint. */
async function refusal(work: Promise<unknown>): Promise<pg.DatabaseError> {
  const error: unknown = await work.then(
    () => assert.fail('the statement was expected to be refused'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof pg.DatabaseError, String(error));
  return error;
}

async function assertRefused(work: Promise<unknown>, constraint: string): Promise<pg.DatabaseError> {
  const error = await refusal(work);
  assert.ok(violates(error, constraint), `refused by ${error.constraint}: ${error.message}`);
  return error;
}

async function takeAll(client: pg.Client, taken: string[]): Promise<void> {
  for (let row = await take(client); row !== undefined; row = await take(client)) taken.push(row.id);
}

describeOnEveryPostgres('a worker of plain SQL', (open) => {
  void test(
    'gets the row with the stage and state of its new status, and no lease',
    fresh(open, async (db) => {
      await create(db.pool, {});
      const row = must(await take(await db.connect()), 'a run');
      const { stage, status, state, attempt, worker_id, lease_id, lease_ms, lease_expire_time, version } =
        row;
      assert.deepEqual(
        { stage, status, state, attempt, worker_id, lease_id, lease_ms, lease_expire_time, version },
        {
          stage: 'initialize',
          status: 'initializing',
          state: 'ACTIVE',
          attempt: 1,
          worker_id: '',
          lease_id: null,
          lease_ms: null,
          lease_expire_time: null,
          version: '2',
        },
      );
    }),
  );

  void test(
    '8 sessions take 200 runs, each of them once, and carry them to the end',
    fresh(open, async (db) => {
      await create(db.pool, ...Array.from({ length: 200 }, () => ({})));
      const taken: string[] = [];
      const clients = await Promise.all(Array.from({ length: 8 }, () => db.connect()));
      await Promise.all(clients.map((client) => takeAll(client, taken)));
      assert.equal(taken.length, 200);
      assert.equal(new Set(taken).size, 200);
      for (const status of ['initialized', 'running', 'success'])
        await db.pool.query('update baton.runs set status = $1', [status]);
      const rows = await db.pool.query(
        'select distinct stage, state::text, attempt, version, end_time is not null as ended from baton.runs',
      );
      assert.deepEqual(rows, [{ stage: '', state: 'SUCCEEDED', attempt: 1, version: 5n, ended: true }]);
      const reader = new TailingReader(db.pool);
      await reader.drain();
      assert.equal(reader.seen.length, 1000);
      assertWellFormed(reader.seen);
    }),
  );

  void test(
    'competes with claims of the service, and no run goes to two',
    fresh(open, async (db) => {
      await create(db.pool, ...Array.from({ length: 300 }, () => ({})));
      const bySql: string[] = [];
      const byClaim: string[] = [];
      const clients = await Promise.all(Array.from({ length: 4 }, () => db.connect()));
      const claimAll = async (): Promise<void> => {
        for (;;) {
          const held = await claim(db.pool, 'initialize', 3);
          if (held.length === 0) return;
          byClaim.push(...held.map(({ run }) => run.id));
        }
      };
      await Promise.all([...clients.map((client) => takeAll(client, bySql)), claimAll(), claimAll()]);
      assert.equal(new Set([...bySql, ...byClaim]).size, 300);
      assert.equal(bySql.length + byClaim.length, 300);
      const rows = await db.pool.query(
        `select distinct version, attempt, lease_id is null as unleased, worker_id from baton.runs order by worker_id`,
      );
      assert.deepEqual(rows, [
        { version: 2n, attempt: 1, unleased: true, worker_id: '' },
        { version: 2n, attempt: 1, unleased: false, worker_id: 'w' },
      ]);
    }),
  );

  void test(
    'holds its run until it says otherwise: there is no lease that could end',
    fresh(open, async (db) => {
      await create(db.pool, {}, {});
      const row = must(await take(await db.connect()), 'a run');
      const { run } = await claimOne(db.pool);
      await endLease(db.pool, run.id);
      assert.equal(await expireLeases(db.pool, 100), 1, 'only the run with a lease');
      assert.equal((await getRun(db.pool, row.id))?.status, 'initializing');
      const error = await refusal(endLease(db.pool, row.id));
      assert.equal(error.constraint, 'runs_lease_is_whole');
    }),
  );

  void test(
    'moves a run away from a worker with a live lease, whose token is worthless from then on',
    fresh(open, async (db) => {
      await create(db.pool, {});
      for (const status of ['initialized', 'new', 'running', 'error']) {
        await db.pool.query(`update baton.runs set status = 'new'`);
        const held = await claimOne(db.pool);
        await db.pool.query('update baton.runs set status = $1', [status]);
        for (const said of ['initializing', 'initialized', 'error', 'new', 'success'])
          assert.equal(await update(db.pool, held, said), undefined, `${said} after ${status}`);
        assert.equal((await getRun(db.pool, held.run.id))?.status, status);
      }
    }),
  );

  void test(
    'takes a run over from another worker under the name it gives',
    fresh(open, async (db) => {
      await create(db.pool, {});
      await claimOne(db.pool);
      await db.pool.query(`update baton.runs set status = 'new'`);
      await db.pool.query(`update baton.runs set status = 'initializing', worker_id = 'psql'`);
      const [row] = await db.pool.query('select worker_id, lease_number from baton.runs');
      assert.deepEqual(row, { worker_id: 'psql', lease_number: 1n });
      await db.pool.query(`update baton.runs set status = 'new'`);
      const { lease } = await claimOne(db.pool);
      assert.equal(lease.number, 2n, 'the fence only grows');
    }),
  );

  void test(
    'is refused a status that the pipeline lacks, and told which there are',
    fresh(open, async (db) => {
      const client = await db.connect();
      const id = await insertBySql(client);
      for (const status of ['done', '', 'NEW', ' new'])
        await assertRefused(
          client.query('update baton.runs set status = $1 where id = $2', [status, id]),
          'runs_status_of_pipeline',
        );
      const error = await assertRefused(
        client.query(`insert into baton.runs (status) values ('done')`),
        'runs_status_of_pipeline',
      );
      assert.match(error.message, /pipeline 'ci' has no status 'done'/);
      assert.equal(
        error.hint,
        'its statuses are: canceled, error, initialized, initializing, new, running, success',
      );
      await assertRefused(
        client.query('update baton.runs set status = null where id = $1', [id]),
        'runs_status_of_pipeline',
      );
    }),
  );

  void describe('INSERT', () => {
    void test(
      'begins in the initial status, in the one that is given, or not at all',
      fresh(open, async (db) => {
        const client = await db.connect();
        const insert = async (columns: string, values: string): Promise<unknown[]> => {
          const result = await client.query<Record<string, unknown>>(
            `insert into baton.runs (${columns}) values (${values})
             returning status, stage, state, attempt, start_time is not null as started, end_time is not null as ended`,
          );
          return Object.values(must(result.rows[0], 'a row'));
        };
        assert.deepEqual(await insert('status', 'null'), ['new', 'initialize', 'PENDING', 0, false, false]);
        assert.deepEqual(await insert('repository', `'r'`), [
          'new',
          'initialize',
          'PENDING',
          0,
          false,
          false,
        ]);
        assert.deepEqual(await insert('status', `'running'`), ['running', 'run', 'ACTIVE', 1, true, false]);
        assert.deepEqual(await insert('status', `'success'`), ['success', '', 'SUCCEEDED', 0, true, true]);
        // What follows from the status is never taken from the writer.
        assert.deepEqual(await insert('status, stage, state', `'new', 'run', 'FAILED'`), [
          'new',
          'initialize',
          'PENDING',
          0,
          false,
          false,
        ]);
        await assertRefused(insert('pipeline', `'nowhere'`), 'runs_pipeline_exists');
        await assertRefused(insert('pipeline', 'null'), 'runs_pipeline_exists');
        await assertRefused(insert('pipeline, status', `'nowhere', 'new'`), 'runs_pipeline_exists');
      }),
    );

    void test(
      'counts versions and takes times itself',
      fresh(open, async (db) => {
        await db.pool.query(
          `insert into baton.runs (version, create_time, update_time) values (7, '2001-01-01', '2001-01-01')`,
        );
        await db.pool.query('update baton.runs set version = 99');
        const [row] = await db.pool.query(
          `select version, create_time > now() - interval '1 minute' as fresh, create_time < update_time as later
           from baton.runs`,
        );
        assert.deepEqual(row, { version: 2n, fresh: true, later: true });
      }),
    );

    void test(
      'makes ids of version 7 in the order of time, and takes no others',
      fresh(open, async (db) => {
        const client = await db.connect();
        const before = Date.now();
        const rows = await client.query<{ id: string }>(
          'insert into baton.runs (priority) select 0 from generate_series(1, 500) returning id',
        );
        for (const { id } of rows.rows) {
          assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
          const ms = Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16);
          // The fraction of a millisecond may be rounded up.
          assert.ok(ms >= before && ms <= Date.now() + 1, `${id} is of ${ms}, not of ${before}`);
        }
        assert.equal(new Set(rows.rows.map(({ id }) => id)).size, 500);
        await assertRefused(
          client.query('insert into baton.runs (id) values (gen_random_uuid())'),
          'runs_id_is_uuid_v7',
        );
      }),
    );

    void test(
      'with a time ahead is claimed after it and not before',
      fresh(open, async (db) => {
        await db.pool.query(`insert into baton.runs (schedule_time) values (now() + interval '1 hour')`);
        assert.equal((await claim(db.pool, 'initialize')).length, 0);
        await db.pool.query(`update baton.runs set schedule_time = now() - interval '1 hour'`);
        const [row] = await db.pool.query('select claimable_time = update_time as due_now from baton.runs');
        assert.deepEqual(row, { due_now: true }, 'a time in the past makes no run older than it is');
        assert.equal((await claim(db.pool, 'initialize')).length, 1);
      }),
    );
  });

  void test(
    'cannot change what a run is about',
    fresh(open, async (db) => {
      await create(db.pool, { requestId: 'r', labels: { a: 'b' }, input: { x: 1 }, repository: 'r' });
      for (const change of [
        'id = baton.uuid_v7()',
        `pipeline = 'other'`,
        `repository = 'other'`,
        `labels = '{}'`,
        'input = null',
        `create_time = create_time + interval '1 second'`,
        'request_id = null',
        `trace_parent = 'x'`,
      ])
        await assertRefused(db.pool.query(`update baton.runs set ${change}`), 'runs_identity_is_fixed');
      await db.pool.query('update baton.runs set repository = repository, labels = labels');
    }),
  );

  void test(
    'deletes a run that is finished, and no open one',
    fresh(open, async (db) => {
      await create(db.pool, {});
      for (const status of ['new', 'initializing', 'initialized', 'running']) {
        await db.pool.query('update baton.runs set status = $1', [status]);
        await assertRefused(db.pool.query('delete from baton.runs'), 'runs_open_is_kept');
      }
      for (const status of ['success', 'error', 'canceled']) {
        await db.pool.query('update baton.runs set status = $1', [status]);
        await db.pool.query('delete from baton.runs');
        assert.deepEqual(await db.pool.query('select id from baton.runs'), []);
        await create(db.pool, {});
      }
    }),
  );

  void describe('is a neighbour that cannot do harm', () => {
    const refused = (title: string, statement: string): void => {
      void test(
        title,
        fresh(open, async (db) => {
          await create(db.pool, {});
          await refusal(db.pool.query(statement));
        }),
      );
    };
    // Each of these is an event that no reader could encode, or a loss that no event tells of.
    refused('TRUNCATE takes no open runs away', 'truncate baton.runs');
    refused(
      'a schedule at infinity is no time',
      `insert into baton.runs (schedule_time) values ('infinity')`,
    );
    refused(
      'a schedule beyond the calendar of the API is no time',
      `insert into baton.runs (schedule_time) values ('12000-01-01')`,
    );
    refused('labels are texts', `insert into baton.runs (labels) values ('{"a": 1}')`);
    refused(
      'a lease has a length',
      `update baton.runs set status = 'initializing', lease_number = 1, lease_id = gen_random_uuid(),
         lease_expire_time = now()`,
    );

    void test(
      'who writes stage or state gets what the status says, and ends no lease by it',
      fresh(open, async (db: TestDatabase) => {
        await create(db.pool, {});
        const held = await claimOne(db.pool);
        await db.pool.query(`update baton.runs set state = 'PENDING', stage = 'run'`);
        assert.equal((await getRun(db.pool, held.run.id))?.state, 'ACTIVE');
        assert.ok(await update(db.pool, held, 'initialized'), 'the lease was not kept');
      }),
    );
  });
});
