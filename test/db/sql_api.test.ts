/** What Baton offers to SQL: create_run beside one's own rows, views to look at, and rights for both. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { isDeepStrictEqual } from 'node:util';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import pg from 'pg';
import type { CreateRunRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { bulkInsert, rowsVisited } from '../support/log_plan.js';
import { must, waitingForLock } from '../support/log_runs.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { createBySql, sqlFailure, violatedParameters, type SqlRequest } from '../support/sql_calls.js';
import { waitFor, within } from '../support/wait.js';
import { Watching } from '../support/watching.js';

type ApiRequest = MessageInitShape<typeof CreateRunRequestSchema>;

const TRACE = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01';
const DAY_MS = 86_400_000;
const WHEN = new Date(Date.now() + DAY_MS);

/** The same request for both sides. */
function toApi(request: SqlRequest): ApiRequest {
  const names: Readonly<Record<string, string>> = {
    schedule_time: 'scheduleTime',
    concurrency_key: 'concurrencyKey',
    max_attempts: 'maxAttempts',
    request_id: 'requestId',
    trace_parent: 'traceParent',
  };
  return Object.fromEntries(
    Object.entries(request).map(([name, value]) => [
      names[name] ?? name,
      value instanceof Date ? timestampFromDate(value) : value,
    ]),
  );
}

/** An object that is so many bytes as JSON text without white space. */
const ofBytes = (bytes: number): Record<string, unknown> => {
  const empty = { list: [1, 2, { a: 1, b: 2 }], text: '' };
  return { ...empty, text: 'x'.repeat(bytes - JSON.stringify(empty).length) };
};

const nested = (depth: number): Record<string, unknown> => {
  let value: unknown = 1;
  for (let level = depth; level > 2; level -= 1) value = [value];
  return { value };
};

const manyLabels = (count: number): Record<string, string> =>
  Object.fromEntries(Array.from({ length: count }, (_, n) => [`k${n}`, '']));

const MIB = 1024 * 1024;
/** Values at each limit of the API and just beyond; both sides must draw the line at the same place. */
const EDGES: readonly SqlRequest[] = [
  ...['a', 'x'.repeat(63), '', 'x'.repeat(64), 'A', '-a', 'a b', 'a\n', 'é'].map((pipeline) => ({
    pipeline,
  })),
  ...['', 'é'.repeat(256), '😀'.repeat(128), 'x'.repeat(257), '😀'.repeat(129)].flatMap((text) => [
    { repository: text },
    { concurrency_key: text },
  ]),
  ...[-1, 0, 9, 10].map((priority) => ({ priority })),
  ...[-1, 0, 1, 100, 101].map((max_attempts) => ({ max_attempts })),
  ...['', ' ~', 'x'.repeat(128), 'x'.repeat(129), 'é', 'a\tb', 'a\n'].map((request_id) => ({ request_id })),
  ...['', TRACE, TRACE.toUpperCase(), TRACE.slice(1), `${TRACE}\n`].map((trace_parent) => ({ trace_parent })),
  ...[new Date(0), WHEN, new Date(Date.now() + 3649 * DAY_MS), new Date(Date.now() + 3651 * DAY_MS)].map(
    (schedule_time) => ({ schedule_time }),
  ),
  { labels: {} },
  { labels: manyLabels(32) },
  { labels: manyLabels(33) },
  { labels: { ['k'.repeat(63)]: '😀'.repeat(128) } },
  { labels: { ['k'.repeat(64)]: '', ['😀'.repeat(32)]: '' } },
  { labels: { 'a"b\\': 'x'.repeat(257), fine: 'é'.repeat(256) } },
  { labels: { '': 'x' } },
  { input: {} },
  { input: ofBytes(MIB) },
  { input: ofBytes(MIB + 1) },
  { input: { list: Array.from({ length: 65_535 }, () => 1) } },
  { input: { list: Array.from({ length: 65_536 }, () => 1) } },
  { input: { a: Array.from({ length: 32_767 }, () => [0]), b: 1 } },
  { input: { a: Array.from({ length: 32_767 }, () => [0]), b: [1] } },
  { input: nested(30) },
  { input: nested(31) },
  { pipeline: 'X', priority: 99, max_attempts: -5, labels: { '': '' }, trace_parent: 'x' },
];

describeOnEveryPostgres('baton.create_run', (open) => {
  let database: TestDatabase;
  let baton: TestServer;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await database.drop();
  });

  const sql = (request: SqlRequest = {}): Promise<string> => createBySql(database.pool, request);
  const api = async (request: SqlRequest): Promise<string> =>
    (await baton.jobs.createRun(toApi(request))).run?.id ?? '';
  const read = async (id: string): Promise<Run> => must((await baton.jobs.getRun({ id })).run, 'a run');

  void test('makes the run that CreateRun makes of the same request', async () => {
    const full = {
      pipeline: 'ci',
      repository: 'r 😀',
      labels: { 'a"b': `c'd`, e: '' },
      input: { deep: [{ x: null }], n: 1.5, text: 'ü\n' },
      priority: 9,
      schedule_time: WHEN,
      concurrency_key: 'k',
      max_attempts: 7,
      trace_parent: TRACE,
    };
    for (const request of [{}, full, { pipeline: '', labels: {}, max_attempts: 0 }]) {
      const [bySql, byApi] = [await read(await sql(request)), await read(await api(request))];
      const { id, createTime, updateTime } = byApi;
      assert.deepEqual({ ...bySql, id, createTime, updateTime }, byApi);
    }
    const nulls = Object.fromEntries(Object.keys({ ...full, request_id: '' }).map((name) => [name, null]));
    const { id, createTime, updateTime, ...plain } = await read(await sql());
    assert.deepEqual(
      { ...(await read(await sql(nulls))), id, createTime, updateTime },
      { ...plain, id, createTime, updateTime },
    );
  });

  void test('refuses what CreateRun refuses, by the same names, and takes what it takes', async () => {
    await baton.pipelines.putPipeline({
      pipeline: { name: 'x'.repeat(63), stages: [{ name: 'a', processingStatus: 'b', doneStatus: 'c' }] },
    });
    await baton.pipelines.putPipeline({
      pipeline: { name: 'a', stages: [{ name: 'a', processingStatus: 'b', doneStatus: 'c' }] },
    });
    let refused = 0;
    for (const request of EDGES) {
      // As JSON: the client's binary protobuf cannot decode what is nested this deep.
      const expected = await baton.httpJobs.createRun(toApi(request)).then(
        () => [],
        async (error: unknown) => (await failure(Promise.reject(error as Error))).fields,
      );
      const actual = await violatedParameters(sql(request));
      const brief = JSON.stringify(request).slice(0, 120);
      assert.deepEqual(actual.sort(), [...expected].sort(), brief);
      if (expected.length > 0) refused += 1;
    }
    assert.ok(refused > 15 && refused < EDGES.length - 15, `${refused} of ${EDGES.length} were refused`);
  });

  void test('refuses the key __proto__, which a library for JavaScript would not send', async () => {
    const odd = Object.fromEntries([['__proto__', 'x']]);
    assert.deepEqual(await violatedParameters(sql({ labels: odd })), ['labels["__proto__"]']);
    for (const input of [odd, { a: [{ b: [odd] }] }])
      assert.deepEqual(await violatedParameters(sql({ input })), ['input']);
    await sql({ input: { a: '"__proto__"', constructor: 1 }, labels: { constructor: '__proto__' } });
  });

  void test('refuses what only SQL can say', async () => {
    for (const [request, fields] of [
      [{ input: '[1]' }, ['input']],
      [{ input: 'null' }, ['input']],
      [{ input: `{"n": 1${'0'.repeat(309)}}` }, ['input']],
      [{ input: `{"n": 1${'0'.repeat(308)}}` }, []],
      [{ labels: '[]' }, ['labels']],
      [{ labels: '"x"' }, ['labels']],
      [{ labels: '{"a": 1}' }, ['labels["a"]']],
      [{ labels: `{"a": {"b": "${'c'.repeat(300)}"}}` }, ['labels["a"]', 'labels["a"]']],
      [{ schedule_time: 'infinity' }, ['schedule_time']],
      [{ schedule_time: '-infinity' }, ['schedule_time']],
      [{ schedule_time: '0044-03-15 BC' }, ['schedule_time']],
    ] as const) {
      assert.deepEqual(await violatedParameters(sql(request)), fields, JSON.stringify(request).slice(0, 80));
    }
    const nul = await sqlFailure(sql({ input: '{"a": "\\u0000"}' }));
    assert.equal(nul.code, '22P05', 'PostgreSQL itself has no such text');
    const unknown = await sqlFailure(sql({ pipeline: 'nowhere' }));
    assert.deepEqual([unknown.code, unknown.constraint], ['23514', 'runs_pipeline_exists']);
    assert.match(unknown.message, /there is no pipeline 'nowhere'/);
  });

  void test('is there with the rows of its transaction, for workers and watchers, or not at all', async () => {
    const watch = await new Watching(baton.jobs).opened();
    // As an application has it: Baton's own sessions find no other schema by themselves.
    const client = await database.connect();
    await client.query('create table orders (id int primary key, run uuid)');
    for (const end of ['rollback', 'commit']) {
      await client.query('begin');
      await client.query('insert into orders values (1)');
      const id = await createBySql(client, { repository: end });
      await client.query('update orders set run = $1', [id]);
      assert.deepEqual((await baton.jobs.listRuns({})).runs, []);
      assert.deepEqual((await baton.jobs.claimNext({ stage: 'initialize' })).claims, []);
      await client.query(end);
    }
    await watch.hasEvents(1);
    const { rows: orders } = await client.query<{ run: string }>('select run from orders');
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize' });
    assert.deepEqual([claims[0]?.run?.id, claims[0]?.run?.repository], [orders[0]?.run, 'commit']);
    await watch.hasEvents(2);
    assert.deepEqual(
      watch.events.map((event) => [event.type, event.run?.id]),
      [EventType.CREATED, EventType.CLAIMED].map((type) => [type, orders[0]?.run]),
    );
    await watch.cancel();
  });

  void test('wakes a claim that waits', async () => {
    const waiting = baton.jobs.claimNext({ stage: 'initialize', wait: { seconds: 20n } });
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the claim to wait');
    const id = await sql();
    assert.equal((await within(waiting, 'the claim')).claims[0]?.run?.id, id);
  });

  const CONTENT = {
    pipeline: 'ci',
    repository: 'r',
    labels: { a: '1', b: '2' },
    input: { x: { y: 1, z: [0.5, null] }, w: 'é' },
    priority: 3,
    schedule_time: WHEN,
    concurrency_key: 'k',
    max_attempts: 4,
  };
  const DEFAULTS: SqlRequest = { labels: {}, concurrency_key: '', max_attempts: 0 };
  const OTHER: readonly SqlRequest[] = [
    { pipeline: 'other' },
    { repository: 'R' },
    { labels: { a: '1' } },
    { labels: {} },
    { input: { x: { y: 1, z: [0.5] }, w: 'é' } },
    { input: {} },
    { priority: 4 },
    { schedule_time: new Date(WHEN.getTime() + 1) },
    { concurrency_key: '' },
    { max_attempts: 5 },
    { max_attempts: 0 },
  ];
  /** The ways to ask for a run under a request_id. */
  const WAYS: Readonly<Record<string, (request: SqlRequest) => Promise<string>>> = {
    sql,
    api,
    insert: async (request) => {
      const names = Object.keys(request);
      const [row] = await database.pool.query<{ id: string }>(
        `insert into baton.runs (${names.join(', ')}) values (${names.map((_, n) => `$${n + 1}`).join(', ')}) returning id`,
        Object.values(request),
      );
      return must(row, 'a row').id;
    },
  };

  for (const first of Object.keys(WAYS)) {
    void test(`a request_id means the same to SQL and the API after ${first}`, async () => {
      await baton.pipelines.putPipeline({
        pipeline: { name: 'other', stages: [{ name: 'a', processingStatus: 'b', doneStatus: 'c' }] },
      });
      for (const content of [{}, CONTENT]) {
        const request = { ...content, request_id: `r ${Object.keys(content).length}` };
        const id = await must(WAYS[first], first)(request);
        const check = async (): Promise<void> => {
          assert.equal(await sql(request), id);
          assert.equal(await api(request), id);
          assert.equal(await sql({ ...request, trace_parent: TRACE }), id, 'the trace is that of the call');
        };
        await check();
        // What it was asked for with counts, whatever has become of it.
        await database.pool.query(
          `update baton.runs set priority = 8, schedule_time = now(), concurrency_key = 'z', max_attempts = 9 where id = $1`,
          [id],
        );
        await database.pool.query(`update baton.runs set status = 'error' where id = $1`, [id]);
        await check();
        for (const change of OTHER) {
          const whole = { ...DEFAULTS, ...content };
          if (isDeepStrictEqual({ ...whole, ...change }, whole)) continue;
          const other = { ...request, ...change };
          const error = await sqlFailure(sql(other));
          assert.deepEqual(
            [error.code, error.constraint],
            ['23505', 'runs_request_id_key'],
            JSON.stringify(change),
          );
          assert.match(error.detail ?? '', new RegExp(id));
          const { code, reason } = await failure(api(other));
          assert.deepEqual([code, reason], [Code.AlreadyExists, 'REQUEST_ID_REUSED'], JSON.stringify(change));
        }
      }
      assert.equal((await baton.jobs.listRuns({})).runs.length, 2);
    });
  }

  void test('the same content is the same however it is written', async () => {
    const id = await sql({
      request_id: 'q',
      labels: '{"b": "2", "a": "1"}',
      input: '{"n": 1.50, "m": 10, "list": [ ]}',
      schedule_time: '2026-01-01 01:00:00.123999+01',
    });
    const request = { labels: { a: '1', b: '2' }, input: { m: 1e1, list: [], n: 1.5 }, request_id: 'q' };
    assert.equal(await api({ ...request, schedule_time: new Date('2026-01-01T00:00:00.123Z') }), id);
    const client = await database.connect();
    await client.query(`set timezone to 'Asia/Tokyo'`);
    assert.equal(await createBySql(client, { ...request, schedule_time: '2026-01-01 00:00:00.123+00' }), id);
  });

  void test('knows runs from before the database could compare', async () => {
    const request = { ...CONTENT, request_id: 'old' };
    const id = await api(request);
    await database.pool.query('update baton.runs set requested = null');
    assert.equal(await api(request), id, 'by its hash');
    assert.equal(await sql(request), id, 'by what it is now');
    await database.pool.query('update baton.runs set priority = 7');
    assert.equal(await api(request), id);
    assert.equal((await sqlFailure(sql(request))).constraint, 'runs_request_id_key');
  });

  void test('two transactions with one request_id: the second waits and has the first one, or its own', async () => {
    for (const end of ['commit', 'rollback']) {
      for (const second of [sql, api]) {
        const request_id = `${end} ${second === sql ? 'sql' : 'api'}`;
        const client = await database.connect();
        await client.query('begin');
        const id = await createBySql(client, { request_id });
        assert.equal(await createBySql(client, { request_id }), id, 'again in its own transaction');
        const other = second({ request_id });
        await waitFor(async () => (await waitingForLock(database.pool)).length === 1, 'the second to wait');
        await client.query(end);
        assert.equal((await within(other, 'the second')) === id, end === 'commit');
      }
    }
  });

  void test('in a snapshot that cannot see the first one it says to try again', async () => {
    const client = await database.connect();
    await client.query('begin isolation level repeatable read');
    await client.query('select 1 from baton.runs');
    await sql({ request_id: 'q' });
    assert.equal((await sqlFailure(createBySql(client, { request_id: 'q' }))).code, '40001');
    await client.query('rollback');
  });
});

describeOnEveryPostgres('the views', (open) => {
  let database: TestDatabase;
  let baton: TestServer;

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await database.drop();
  });

  const overview = async (columns: string): Promise<Record<string, unknown>> =>
    must((await database.pool.query(`select ${columns} from baton.run_overview`))[0], 'a run');

  void test('nobody can write through them, and every column of use is described', async () => {
    await createBySql(database.pool);
    const client = await database.connect();
    for (const view of ['run_overview', 'stage_overview', 'run_history'])
      for (const statement of [
        `update baton.${view} set status_message = 'x'`,
        `update baton.${view} set pipeline = 'x'`,
        `delete from baton.${view}`,
        `insert into baton.${view} (pipeline) values ('ci')`,
      ]) {
        const { code } = await sqlFailure(client.query(statement));
        assert.ok(code === '55000' || (code === '42703' && statement.includes('status_message')), statement);
      }
    const [row] = await database.pool.query(
      `select count(*)::int as n from pg_description d join pg_class c on c.oid = d.objoid
       where c.relnamespace = 'baton'::regnamespace and c.relkind = 'v'`,
    );
    assert.ok(Number(row?.['n']) > 40, `${String(row?.['n'])} descriptions`);
  });

  void test('run_overview says since when a run is in its status, which its progress does not change', async () => {
    const id = await createBySql(database.pool);
    const run = (): Promise<Record<string, unknown>> =>
      overview('status, status_time, create_time, update_time, end_time, in_status_for');
    const created = await run();
    assert.deepEqual(created['status_time'], created['create_time']);
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize' });
    const claimed = await run();
    assert.deepEqual(claimed['status_time'], claimed['update_time']);
    const held = { runId: id, leaseToken: claims[0]?.leaseToken ?? '' };
    await baton.jobs.updateStatus({ ...held, status: 'initializing', progress: 0.5 });
    await database.pool.query(`update baton.runs set status_time = '2001-01-01', priority = 2`);
    const busy = await run();
    assert.notDeepEqual(busy['update_time'], claimed['update_time']);
    assert.deepEqual(busy['status_time'], claimed['status_time'], 'nor does anybody who writes it');
    await baton.jobs.updateStatus({ ...held, status: 'error' });
    const ended = await run();
    assert.deepEqual(ended['status_time'], ended['end_time']);
    await database.pool.query(`delete from baton.runs`);
    await database.pool.query(`insert into baton.runs (status_time) values ('2001-01-01')`);
    const inserted = await run();
    assert.deepEqual(inserted['status_time'], inserted['create_time']);
  });

  void test('run_overview knows the same of runs from before, as far as it was kept', async () => {
    await createBySql(database.pool);
    for (const [status, source] of [
      ['new', 'create_time'],
      ['running', 'attempt_time'],
      ['success', 'end_time'],
    ]) {
      await database.pool.query('update baton.runs set status = $1', [status]);
      await database.pool.query('alter table baton.runs disable trigger user');
      await database.pool.query('update baton.runs set status_time = null');
      await database.pool.query('alter table baton.runs enable trigger user');
      const [row] = await database.pool.query(
        `select o.status_time = r.${source} as same from baton.run_overview o join baton.runs r using (id)`,
      );
      assert.deepEqual(row, { same: true }, status);
    }
  });

  void test('run_overview says what waits, from when on, and whether it is paused', async () => {
    const [due] = [await createBySql(database.pool)];
    const delayed = await createBySql(database.pool, { schedule_time: WHEN });
    const waits = (): Promise<unknown[]> =>
      database.pool.query(
        `select id, waiting_for is not null as waits, claimable_time > now() as later, paused from baton.run_overview order by id`,
      );
    const expected = (paused: boolean): unknown[] => [
      { id: due, waits: true, later: false, paused },
      { id: delayed, waits: false, later: true, paused },
    ];
    assert.deepEqual(await waits(), expected(false));
    await baton.pipelines.pausePipeline({ name: 'ci', stage: 'run' });
    assert.deepEqual(await waits(), expected(false));
    await baton.pipelines.pausePipeline({ name: 'ci' });
    assert.deepEqual(await waits(), expected(true));
    await database.pool.query(`update baton.runs set status = 'success'`);
    assert.deepEqual(await waits(), [
      { id: due, waits: false, later: null, paused: false },
      { id: delayed, waits: false, later: null, paused: false },
    ]);
  });

  void test('the search for what is stuck finds that, and reads no more than what is at work', async () => {
    await bulkInsert(database.pool, 3000);
    await database.pool.query(
      `update baton.runs set status = 'initializing' where id in (select id from baton.runs limit 20)`,
    );
    await database.pool.query('analyze baton.runs');
    await database.pool.query('alter table baton.runs disable trigger user');
    const stuck = await database.pool.query<{ id: string }>(
      `update baton.runs set status_time = now() - interval '61 minutes'
       where id in (select id from baton.runs where status = 'initializing' limit 3) returning id`,
    );
    await database.pool.query('alter table baton.runs enable trigger user');
    const [query] = (await documented()).filter((text) => text.includes('in_status_for >'));
    assert.equal(must(query, 'the query').trim().split('\n').length, 1, 'one line');
    const found = await database.pool.query<{ id: string }>(must(query, 'the query'));
    const ids = (rows: readonly { id: string }[]): string[] => rows.map(({ id }) => id).sort();
    assert.deepEqual(ids(found), ids(stuck));
    const rows = await rowsVisited(database.pool, (db) => db.query(must(query, 'the query')));
    assert.ok(rows >= 3 && rows <= 20, `${rows} rows were read`);
  });

  void test('stage_overview and run_history tell what the API tells', async () => {
    for (let n = 0; n < 5; n += 1) await createBySql(database.pool, n === 4 ? { schedule_time: WHEN } : {});
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize', maxRuns: 2, workerId: 'w' });
    const held = { runId: claims[0]?.run?.id ?? '', leaseToken: claims[0]?.leaseToken ?? '' };
    await baton.jobs.updateStatus({ ...held, status: 'initialized', output: { n: 1 } });
    await baton.pipelines.pausePipeline({ name: 'ci', stage: 'run' });
    const stages = await database.pool.query(
      `select stage, pending_count, claimable_count, active_count, oldest_waiting_for is not null as waits, paused,
         lease_duration::text, timeout, max_active, max_attempts
       from baton.stage_overview order by position`,
    );
    const more = { lease_duration: '00:01:00', timeout: null, max_active: null, max_attempts: 3 };
    assert.deepEqual(stages, [
      {
        stage: 'initialize',
        pending_count: 3n,
        claimable_count: 2n,
        active_count: 1n,
        waits: true,
        paused: false,
        ...more,
      },
      {
        stage: 'run',
        pending_count: 1n,
        claimable_count: 1n,
        active_count: 0n,
        waits: true,
        paused: true,
        ...more,
      },
    ]);
    const { pipelines } = await baton.pipelines.getStats({});
    assert.deepEqual(
      pipelines[0]?.stages.map((stage) => [stage.stage, stage.pendingCount, stage.activeCount, stage.paused]),
      stages.map((row) => [row['stage'], row['pending_count'], row['active_count'], row['paused']]),
    );
    const { events } = await baton.jobs.listRunEvents({ runId: held.runId, includePayload: true });
    const history = await database.pool.query(
      `select revision, version, type, previous_status, status, worker_id, output, waited is not null as waited
       from baton.run_history where run_id = $1 order by version`,
      [held.runId],
    );
    assert.deepEqual(
      history,
      events.map(({ revision, version, type, previousStatus, run }) => ({
        revision,
        version,
        type: EventType[type],
        previous_status: previousStatus,
        status: run?.status,
        worker_id: run?.workerId,
        output: run?.output ?? null,
        waited: type === EventType.CLAIMED,
      })),
    );
    await database.pool.query('update baton.log set oldest_revision = $1', [events[1]?.revision]);
    const [first] = await database.pool.query(
      'select min(version) as version from baton.run_history where run_id = $1',
      [held.runId],
    );
    assert.deepEqual(first, { version: 2n }, 'history that is published as gone is not shown');
  });
});

const DOCUMENT = fileURLToPath(new URL('../../../docs/sql.md', import.meta.url));

/** The statements of docs/sql.md, block by block. */
async function documented(): Promise<string[]> {
  const text = await readFile(DOCUMENT, 'utf8');
  return [...text.matchAll(/^```sql\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
}

describeOnEveryPostgres('a role with few rights', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let suffix = 0;
  const roles: string[] = [];
  const clients: pg.Client[] = [];

  beforeEach(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    await database.pool.query('create table public.orders (id int primary key, total int)');
  });

  afterEach(async () => {
    await baton.stop();
    for (const client of clients.splice(0)) await client.end();
    for (const role of roles.splice(0)) {
      await database.pool.query(`drop owned by ${role}`);
      await database.pool.query(`drop role ${role}`);
    }
    await database.drop();
  });

  /** A role of its own, with what the document grants to the one of that name, and a session of it. */
  const connectAs = async (documentedName: string): Promise<pg.Client> => {
    suffix += 1;
    const role = `${documentedName}_${process.pid}_${suffix}_${database.version}`;
    await database.pool.query(`create role ${role} login password 'secret'`);
    roles.push(role);
    for (const block of (await documented()).filter((text) => text.includes(`to ${documentedName};`)))
      await database.pool.query(block.replaceAll(documentedName, role));
    await database.pool.query(`grant insert on public.orders to ${role}`);
    await database.pool.query(`grant create on schema public to ${role}`);
    const url = new URL(database.url);
    url.username = role;
    url.password = 'secret';
    const client = new pg.Client({ connectionString: url.toString() });
    client.on('error', () => undefined);
    clients.push(client);
    await client.connect();
    return client;
  };

  const TABLES = [
    'runs',
    'run_events',
    'log',
    'stages',
    'pipelines',
    'pipeline_statuses',
    'run_events_p0',
    'migrations',
  ];

  const assertDenied = async (client: pg.Client, statement: string): Promise<void> => {
    assert.equal((await sqlFailure(client.query(statement))).code, '42501', statement);
  };

  void test('creates runs, looks at them, and touches nothing else', async () => {
    const client = await connectAs('my_app');
    const [enqueue, ...rest] = await documented();
    await client.query(must(enqueue, 'the first example'));
    for (const query of rest.filter((text) => text.startsWith('select'))) await client.query(query);
    const watch = await new Watching(baton.jobs, { after: 'oldest' }).opened();
    await watch.hasEvents(1);
    assert.deepEqual(
      [watch.events[0]?.run?.requestId, watch.events[0]?.run?.labels],
      ['order-7', { team: 'web' }],
    );
    await watch.cancel();
    const seen = await client.query('select status, waiting_for from baton.run_overview');
    assert.equal(seen.rows.length, 1);
    for (const table of TABLES) {
      await assertDenied(client, `select * from baton.${table}`);
      await assertDenied(client, `insert into baton.${table} default values`);
      await assertDenied(client, `delete from baton.${table}`);
      await assertDenied(client, `truncate baton.${table}`);
    }
    await assertDenied(client, `update baton.runs set status = 'success'`);
    await assertDenied(client, `select nextval('baton.revision')`);
    await assertDenied(client, `select setval('baton.revision', 1)`);
  });

  void test('cannot have the functions of the triggers run for a table of its own', async () => {
    const client = await connectAs('my_app');
    await client.query('create table mine (id int)');
    for (const name of ['runs_append_event', 'runs_before_write', 'runs_keep_request'])
      await assertDenied(
        client,
        `create trigger forged before insert on mine for each row execute function baton.${name}()`,
      );
    await client.query('drop table mine');
  });

  void test('cannot put anything of its own under what runs for it', async () => {
    const client = await connectAs('my_app');
    const operators = `
      create schema trap;
      create function trap.eq(text, text) returns boolean language plpgsql as $$ begin raise 'trapped'; end $$;
      create operator trap.= (leftarg = text, rightarg = text, function = trap.eq);
      create operator trap.<> (leftarg = text, rightarg = text, function = trap.eq);`;
    await database.pool.query(
      `do $$ begin execute format('grant create on database %I to ${roles[0]}', current_database()); end $$`,
    );
    await client.query(operators);
    await client.query('set search_path to trap, pg_catalog');
    await client.query('create temporary table runs (id int)');
    await createBySql(client, { request_id: 'q', repository: 'r' });
    await createBySql(client, { request_id: 'q', repository: 'r' });
    assert.equal((await baton.jobs.listRuns({})).runs.length, 1);
  });

  void test('may not even create a run where it was not granted', async () => {
    const role = await connectAs('my_nobody');
    await assertDenied(role, 'select baton.create_run()');
    await assertDenied(role, 'select * from baton.run_overview');
    await database.pool.query(`grant usage on schema baton to ${must(roles.at(-1), 'a role')}`);
    await assertDenied(role, 'select baton.create_run()');
  });

  void test('a worker takes runs and moves them as the document says, and leaves leases alone', async () => {
    const worker = await connectAs('my_worker');
    const id = await createBySql(database.pool, { repository: 'r' });
    const blocks = await documented();
    const take = must(
      blocks.find((text) => text.includes('for update skip locked')),
      'the claim',
    );
    await baton.pipelines.pausePipeline({ name: 'ci', stage: 'initialize' });
    assert.equal((await worker.query(take)).rows.length, 0, 'paused');
    await baton.pipelines.resumePipeline({ name: 'ci', stage: 'initialize' });
    const taken = await worker.query<{ id: string; attempt: number }>(take);
    assert.deepEqual(
      taken.rows.map((row) => [row.id, row.attempt]),
      [[id, 1]],
    );
    assert.equal((await worker.query(take)).rows.length, 0);
    const move = must(
      blocks.find((text) => text.includes(`status = 'initialized'`)),
      'the update',
    );
    await worker.query(move.replaceAll('00000000-0000-7000-8000-000000000000', id));
    const run = (await baton.jobs.getRun({ id })).run;
    assert.deepEqual([run?.status, run?.workerId, run?.output], ['initialized', 'sql-1', { commit: 'abc' }]);
    const types = (await baton.jobs.listRunEvents({ runId: id })).events.map(({ type }) => EventType[type]);
    assert.deepEqual(types, ['CREATED', 'CLAIMED', 'UPDATED', 'STAGE_COMPLETED']);
    for (const column of [
      'lease_id',
      'lease_number',
      'lease_expire_time',
      'repository',
      'version',
      'request_hash',
    ])
      await assertDenied(worker, `update baton.runs set ${column} = null`);
    for (const table of TABLES.filter((name) => name !== 'runs')) {
      await assertDenied(worker, `select * from baton.${table}`);
      await assertDenied(worker, `insert into baton.${table} default values`);
    }
    await assertDenied(worker, 'insert into baton.runs default values');
    await assertDenied(worker, 'delete from baton.runs');
  });
});
