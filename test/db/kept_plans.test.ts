/** The plans of statements that keep them: made when there was little, and still right when there is much. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import pg from 'pg';
import { types, type Queryable } from '../../src/store/pool.js';
import { claimChosenRuns, FLOOR_OF_ALL } from '../../src/store/sql/claim_runs.js';
import { extendLeases } from '../../src/store/sql/extend_leases.js';
import { findClaims } from '../../src/store/sql/find_claims.js';
import { getBareRun, getLightRun, getRun } from '../../src/store/sql/get_run.js';
import { readEvents } from '../../src/store/sql/read_events.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { readPayloads } from '../../src/store/sql/read_payloads.js';
import { readNewWork } from '../../src/store/sql/read_new_work.js';
import { updateAndClaim } from '../../src/store/sql/update_and_claim.js';
import { updateRuns } from '../../src/store/sql/update_runs.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { claim, create, fresh, must, report, type Held } from '../support/log_runs.js';

const BATCH = 100;
const GROWN_RUNS = 6000;
const GROWN_PIPELINES = 400;
/** Of the runs; in batches, which is how they are claimed. */
const GROWN_CLAIMS = [500, 500, 500, 500];
/** A higher tree of an index and a fuller page may cost as much; a table that is read as a whole costs far more. */
const FACTOR = 2;
const PAGES = 60;

interface Node {
  readonly 'Node Type': string;
  readonly 'Actual Rows': number;
  readonly 'Actual Loops': number;
  readonly 'Shared Hit Blocks': number;
  readonly 'Shared Read Blocks': number;
  readonly Plans?: readonly Node[];
}

interface Plan {
  readonly 'Query Text': string;
  readonly Plan: Node;
}

/** How many rows are read of those that triggers are given: what a statement has changed, and was before. */
function changesRead(node: Node): number {
  const own = node['Node Type'] === 'Named Tuplestore Scan' ? node['Actual Rows'] * node['Actual Loops'] : 0;
  return (node.Plans ?? []).reduce((sum, plan) => sum + changesRead(plan), own);
}

/** A session like those of a pool for statements that keep their plans, which tells the pages that each has looked at. */
class KeptSession implements Queryable {
  readonly commits = true;
  /** Since the last look, by the name of the statement, in the order they were sent. */
  #pages: { readonly name: string; readonly pages: number }[] = [];
  readonly #client: pg.Client;
  #plans: Plan[] = [];

  private constructor(client: pg.Client) {
    this.#client = client;
    client.on('notice', ({ message = '' }) => {
      if (message.includes('plan:')) this.#plans.push(JSON.parse(message.slice(message.indexOf('{'))));
    });
  }

  static async open(db: TestDatabase): Promise<KeptSession> {
    // What it is that the pool asks for, as a session of it says.
    const own = { name: 'settings', text: `select name, setting from pg_settings where source = 'client'` };
    const settings = (await db.pool.query<{ name: string; setting: string }>(own))
      .filter(({ name }) => /^(plan_cache_mode|enable_|jit)/.test(name))
      .map(({ name, setting }) => [name, setting]);
    assert.ok(settings.some(([name]) => name === 'plan_cache_mode'));
    const options = [
      ...settings,
      ['session_preload_libraries', 'auto_explain'],
      ['auto_explain.log_min_duration', '0'],
      ['auto_explain.log_analyze', 'on'],
      ['auto_explain.log_buffers', 'on'],
      ['auto_explain.log_nested_statements', 'on'],
      ['auto_explain.log_timing', 'off'],
      ['auto_explain.log_format', 'json'],
      ['client_min_messages', 'log'],
    ].map(([name, setting]) => `-c ${name}=${setting}`);
    const client = new pg.Client({ connectionString: db.url, options: options.join(' '), types });
    await client.connect();
    return new KeptSession(client);
  }

  async query<Row extends pg.QueryResultRow>(
    statement: Parameters<Queryable['query']>[0],
    values?: unknown[],
  ): Promise<Row[]> {
    if (typeof statement === 'string') throw new Error('a text keeps no plan');
    this.#plans = [];
    const { rows } = await this.#client.query<Row>({ ...statement, values: values ?? [] });
    // What triggers do is told too.
    const own = this.#plans.find((plan) => plan['Query Text'] === statement.text);
    const { Plan: plan } = must(own, `the plan of ${statement.name}`);
    this.#pages.push({
      name: statement.name,
      pages: plan['Shared Hit Blocks'] + plan['Shared Read Blocks'],
    });
    return rows;
  }

  takePages(): readonly { readonly name: string; readonly pages: number }[] {
    const pages = this.#pages;
    this.#pages = [];
    return pages;
  }

  /** By the triggers of the last statement. */
  get changesRead(): number {
    return this.#plans.reduce((sum, plan) => sum + changesRead(plan.Plan), 0);
  }

  end(): Promise<void> {
    return this.#client.end();
  }
}

/** Each statement that keeps its plan, with runs that it does something to. */
async function useAll(db: Queryable, requestId: string): Promise<void> {
  const after = (await readHead(db)).revision;
  const runs = await create(db, ...Array.from({ length: 8 }, () => ({ priority: 9, input: { n: 1 } })));
  const held: Held[] = await claim(db, 'initialize', 6, { requestId });
  assert.equal(held.length, 6);
  const [first, second, third] = held;
  assert.ok(first && second && third);
  const place = { pipeline: 'ci', stage: 'initialize' };
  const [again] = await findClaims(db, [{ ...place, requestId, workerId: 'w' }], 'skip');
  assert.equal(again?.length, 6);
  const extension = { runId: first.run.id, lease: first.lease, leaseMs: 0, progress: undefined };
  const still = { ...extension, statusMessage: undefined, checkpoint: undefined };
  for (const item of [still, { ...still, progress: 0.5 }]) {
    const [extended] = await extendLeases(db, [item], 'skip');
    assert.ok(extended);
  }
  assert.ok((await updateRuns(db, [report(first, 'initialized')], 'skip'))[0]);
  const slot = { workerId: 'w', leaseMs: 0, maxRuns: 1 };
  const both = [second, third].map((item) => ({ update: report(item, 'initialized'), slot }));
  const { claimed } = await updateAndClaim(db, place, both, FLOOR_OF_ALL);
  assert.deepEqual(
    claimed.claims.map((claims) => claims.length),
    [1, 1],
  );
  const chosen = await claimChosenRuns(db, { pipeline: 'ci', stage: 'run', slots: [slot] }, [first.run.id]);
  assert.equal(chosen.claims[0]?.length, 1);
  const { id } = must(runs[0], 'a run');
  for (const get of [getRun, getLightRun, getBareRun]) assert.ok(await get(db, id));
  assert.equal((await readPayloads(db, [id], [0])).size, 1);
  assert.equal((await readNewWork(db, after)).work.length, 2);
  for (const payloadBytes of [undefined, 1e6])
    assert.equal((await readEvents(db, { after, limit: 20, payloadBytes })).events.length, 20);
}

/** More pipelines like the one that there is. */
async function copyPipelines(db: Queryable, copies: number): Promise<void> {
  for (const [table, key] of [
    ['pipelines', 'name'],
    ['stages', 'pipeline'],
    ['pipeline_statuses', 'pipeline'],
  ])
    await db.query(
      `insert into baton.${table}
       select (jsonb_populate_record(one, jsonb_build_object('${key}', 'other' || n))).*
       from baton.${table} one cross join generate_series(1, $1::int) n`,
      [copies],
    );
}

/** What there is, and is known of it, when the plans are made. */
const BEGINNINGS = {
  'there was nothing': { runs: 0, analyzed: false },
  'there was nothing, as is known': { runs: 0, analyzed: true },
  'there was one run': { runs: 1, analyzed: true },
  'there were few': { runs: 40, analyzed: true },
};

describeOnEveryPostgres('plans that are kept', (open) => {
  for (const [beginning, { runs, analyzed }] of Object.entries(BEGINNINGS))
    void test(
      `are right for many runs and pipelines, although ${beginning} when they were made`,
      fresh(open, async (db) => {
        await db.pool.query('alter table baton.runs set (autovacuum_enabled = off)');
        if (runs > 0) await create(db.pool, ...Array.from({ length: runs }, () => ({})));
        if (analyzed) await db.pool.query('analyze');
        const session = await KeptSession.open(db);
        try {
          await useAll(session, 'first');
          session.takePages();
          await useAll(session, 'few');
          const few = session.takePages();
          await copyPipelines(db.pool, GROWN_PIPELINES);
          await db.pool.query(
            'insert into baton.runs (priority) select n % 9 from generate_series(1, $1::int) n',
            [GROWN_RUNS],
          );
          for (const claims of GROWN_CLAIMS)
            assert.equal((await claim(db.pool, 'initialize', claims, { workerId: 'other' })).length, claims);
          await useAll(session, 'many');
          const many = session.takePages();
          const grown = many.filter(({ pages }, index) => pages > FACTOR * (few[index]?.pages ?? 0) + PAGES);
          assert.deepEqual(grown, [], `with few runs: ${JSON.stringify(few)}`);
          assert.deepEqual(
            many.map(({ name }) => name),
            few.map(({ name }) => name),
          );
        } finally {
          await session.end();
        }
      }),
    );

  void test(
    'of triggers are right for a batch, although one run was changed when they were made',
    fresh(open, async (db) => {
      const session = await KeptSession.open(db);
      const read: number[] = [];
      try {
        for (const runs of [1, BATCH]) {
          await create(session, ...Array.from({ length: runs }, () => ({})));
          read.push(session.changesRead);
          const held = await claim(session, 'initialize', runs);
          assert.equal(held.length, runs);
          read.push(session.changesRead);
          const reports = held.map((one) => report(one, 'initialized'));
          assert.ok((await updateRuns(session, reports, 'skip')).every((run) => run !== undefined));
          read.push(session.changesRead);
        }
      } finally {
        await session.end();
      }
      const [one, many] = [read.slice(0, 3), read.slice(3)];
      assert.ok(
        one.every((rows) => rows > 0),
        `no trigger was seen: ${one.join()}`,
      );
      assert.ok(
        many.every((rows, index) => rows <= BATCH * (one[index] ?? 0)),
        `of one run ${one.join()} rows were read, of ${BATCH} ${many.join()}`,
      );
    }),
  );
});
