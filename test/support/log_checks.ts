import assert from 'node:assert/strict';
import type pg from 'pg';
import type { RunEvent } from '../../src/run/run.js';
import type { TestDatabase } from './database.js';
import { Oracle } from './log_oracle.js';
import { BellReader, TailingReader } from './log_reader.js';
import { updateRuns } from '../../src/store/sql/update_runs.js';
import { claim, create, insertBySql, must, report, waitingForLock } from './log_runs.js';
import { assertSameSequence, assertWellFormed, changeOf } from './log_verify.js';
import { waitFor, within } from './wait.js';

/** Longest time that one small commit may take beside transactions which idle. */
const COMMIT_BOUND_MS = 1000;
const GATE = 42;

/** A trigger of the user's own that runs at commit, after the log's, and takes its time where a test wants it to. */
const GATE_TRIGGER = `
create function baton.test_gate() returns trigger language plpgsql as $$
begin
  perform pg_advisory_lock_shared(${GATE});
  perform pg_advisory_unlock_shared(${GATE});
  return null;
end $$;
create constraint trigger zz_gate after insert or update on baton.runs deferrable initially deferred
  for each row when (new.repository = 'gated' and new.worker_id = '' or new.progress > 0 and new.repository = 'gated') execute function baton.test_gate()`;

interface TwoWriters {
  /** Its commit stands at the gate, after its first revision. */
  readonly slow: () => Promise<unknown>;
  readonly quick: () => Promise<unknown>;
  /** The slow one once more, at the end. */
  readonly again: () => Promise<unknown>;
}

/**
 * One commit is held up between its first revision and its end, while another writer tries to overtake it: exactly
 * what happens by chance to a server under load. The order of revisions has to be the order of commits.
 */
async function checkOrderOf(
  db: TestDatabase,
  { slow, quick, again }: TwoWriters,
  changed: number,
): Promise<void> {
  const keeper = await db.connect();
  const oracle = await Oracle.open(db);
  try {
    const reader = await TailingReader.atHead(db.pool);
    const before = reader.cursor;
    await keeper.query(`select pg_advisory_lock(${GATE})`);
    const slowDone = slow();
    await waitFor(async () => (await waitingForLock(db.pool)).length > 0, 'a commit to stand at the gate');
    let overtook = false;
    const quickDone = quick().then(() => {
      overtook = true;
    });
    await waitFor(
      async () => overtook || (await waitingForLock(db.pool)).length > 1,
      'the other writer to commit or to wait its turn',
    );
    await reader.drain();
    await keeper.query(`select pg_advisory_unlock(${GATE})`);
    await within(Promise.all([slowDone, quickDone]), 'both commits');
    // A session that kept numbers back would use them now.
    await again();
    await reader.drain();
    const stored = new TailingReader(db.pool, before);
    await stored.drain();
    const { changes } = await oracle.read();
    assert.equal(changes.length, changed);
    assertSameSequence(stored.seen.map(changeOf), changes, 'the log against the order of commits');
    assertSameSequence(reader.seen, stored.seen, 'what the reader saw against the log');
  } finally {
    await oracle.close();
  }
}

/** The order of commits of plain SQL, in transactions of several statements. */
export async function checkCommitOrder(db: TestDatabase): Promise<void> {
  await db.pool.query(GATE_TRIGGER);
  const [slow, quick] = [await db.connect(), await db.connect()];
  await checkOrderOf(
    db,
    {
      async slow() {
        await slow.query('begin');
        await insertBySql(slow, 'gated');
        await insertBySql(slow, 'second of the same commit');
        await slow.query('commit');
      },
      quick: () => insertBySql(quick, 'quick'),
      again: () => insertBySql(slow, 'slow again'),
    },
    4,
  );
}

/** The same of the server's own statements, which append their events by themselves. */
export async function checkCommitOrderOfStatements(db: TestDatabase): Promise<void> {
  await db.pool.query(GATE_TRIGGER);
  await checkOrderOf(
    db,
    {
      slow: () => create(db.pool, { repository: 'gated' }, { repository: 'second of the same commit' }),
      quick: () => create(db.pool, { repository: 'quick' }),
      again: () => create(db.pool, { repository: 'slow again' }),
    },
    4,
  );
  const held = await claim(db.pool, 'initialize', 4);
  const progress = (at: number, ...repositories: string[]) =>
    updateRuns(
      db.pool,
      held
        .filter(({ run }) => repositories.includes(run.repository))
        .map((item) => report(item, 'initializing', { progress: at })),
    );
  await checkOrderOf(
    db,
    {
      slow: () => progress(0.1, 'gated', 'second of the same commit'),
      quick: () => progress(0.1, 'quick'),
      again: () => progress(0.2, 'second of the same commit'),
    },
    4,
  );
}

/**
 * A transaction that wrote runs and idles: others commit, and are seen, as if it was not there; its own events come
 * with its commit and after theirs.
 */
export async function checkIdleWriterHidesNothing(db: TestDatabase): Promise<void> {
  const [existing] = await create(db.pool, {});
  const { id: existingId } = must(existing, 'a run');
  const reader = await TailingReader.atHead(db.pool);
  const [idler, snapshot] = [await db.connect(), await db.connect()];
  const others = await Promise.all(Array.from({ length: 4 }, () => db.connect()));
  // A reader's old snapshot must not delay anything either.
  await snapshot.query('begin isolation level repeatable read');
  await snapshot.query('select count(*) from baton.run_events');
  await idler.query('begin');
  const inserted = await insertBySql(idler, 'idle');
  await idler.query('update baton.runs set progress = 0.5 where id = $1', [existingId]);
  await idler.query('update baton.runs set progress = 0.7 where id = $1', [existingId]);

  const written: Promise<void>[] = [];
  try {
    for (const other of others) written.push(writeSome(other));
    await Promise.all(written);
    await reader.drain();
    assert.equal(reader.seen.length, others.length * 8, 'events of the other writers');
    assert.ok(!reader.seen.some(({ run }) => run.id === inserted || run.id === existingId));
    const before = reader.cursor;
    await within(idler.query('commit'), 'the commit of the transaction that idled', COMMIT_BOUND_MS);
    assert.equal(await reader.drain(), 3);
    const own = reader.seen.slice(-3);
    assert.deepEqual(
      own.map(({ type, run }) => [type, run.id, run.version, run.progress]),
      [
        ['CREATED', inserted, 1n, 0],
        ['UPDATED', existingId, 2n, 0.5],
        ['UPDATED', existingId, 3n, 0.7],
      ],
    );
    assert.ok(own.every(({ revision }) => revision > before));
  } finally {
    await idler.query('rollback');
    await Promise.allSettled(written);
    await snapshot.query('rollback');
  }
}

async function writeSome(client: pg.Client): Promise<void> {
  for (let round = 0; round < 4; round += 1) {
    const id = await within(insertBySql(client), 'an insert beside an idle writer', COMMIT_BOUND_MS);
    const update = client.query('update baton.runs set priority = 3 where id = $1', [id]);
    await within(update, 'an update beside an idle writer', COMMIT_BOUND_MS);
  }
}

const brief = ({ type, previousStatus, run }: RunEvent): unknown[] => [
  type,
  run.id,
  run.version,
  previousStatus,
  run.status,
];

/** Rows written by plain SQL are events like any other: every change, as it was then, and nothing else. */
export async function checkPlainSqlIsWatched(db: TestDatabase): Promise<void> {
  const client = await db.connect();
  const reader = await TailingReader.atHead(db.pool);
  const expectNext = async (what: string, ...expected: unknown[][]): Promise<void> => {
    const count = await reader.drain();
    assert.deepEqual(count === 0 ? [] : reader.seen.slice(-count).map(brief), expected, what);
  };
  const [a, b] = [await insertBySql(client), await insertBySql(client)];
  await expectNext('two inserts', ['CREATED', a, 1n, '', 'new'], ['CREATED', b, 1n, '', 'new']);

  await client.query('update baton.runs set priority = 5 where id = any ($1)', [[a, b]]);
  assert.equal(await reader.drain(), 2, 'one event for each row of a statement');
  assert.deepEqual(
    reader.seen.slice(-2).map(({ run }) => run.version),
    [2n, 2n],
  );

  await client.query('begin');
  await client.query(`update baton.runs set status = 'initializing' where id = $1`, [a]);
  await client.query(`update baton.runs set progress = 0.25 where id = $1`, [a]);
  await client.query('savepoint s');
  await client.query(`update baton.runs set status = 'error' where id = $1`, [a]);
  await client.query(`insert into baton.runs default values`);
  await client.query('rollback to savepoint s');
  await client.query(`update baton.runs set status = 'initialized' where id = $1`, [a]);
  await expectNext('nothing before the commit');
  await client.query('commit');
  await expectNext(
    'each change of a transaction, without what a savepoint took back',
    ['CLAIMED', a, 3n, 'new', 'initializing'],
    ['UPDATED', a, 4n, 'initializing', 'initializing'],
    ['STAGE_COMPLETED', a, 5n, 'initializing', 'initialized'],
  );
  assert.deepEqual(
    reader.seen.slice(-3).map(({ run }) => [run.stage, run.state, run.progress]),
    [
      ['initialize', 'ACTIVE', 0],
      ['initialize', 'ACTIVE', 0.25],
      ['run', 'PENDING', 0.25],
    ],
    'runs as they were at each event',
  );

  await client.query(`insert into baton.runs (id) values ($1) on conflict (id) do update set priority = 6`, [
    a,
  ]);
  await client.query(
    `merge into baton.runs r using (values ($1::uuid)) as v (id) on r.id = v.id
     when matched then update set priority = 7`,
    [a],
  );
  await expectNext(
    'an upsert and a MERGE',
    ['UPDATED', a, 6n, 'initialized', 'initialized'],
    ['UPDATED', a, 7n, 'initialized', 'initialized'],
  );

  await client.query('begin');
  await client.query(`update baton.runs set status = 'canceled' where id = $1`, [b]);
  await client.query('rollback');
  await expectNext('nothing of a rollback');

  await client.query(
    `update baton.runs set status = 'initializing', lease_number = lease_number + 1, lease_ms = 1000,
       lease_id = gen_random_uuid(), lease_expire_time = now() where id = $1`,
    [b],
  );
  await reader.drain();
  await client.query(`update baton.runs set lease_expire_time = now() + interval '1 hour' where id = $1`, [
    b,
  ]);
  await expectNext('nothing for a lease that was only extended');
  assertWellFormed(reader.seen);
}

/** One ring for a transaction that changed a run, whatever its size, without contents; none for any other. */
export async function checkDoorbell(db: TestDatabase): Promise<void> {
  const bell = await BellReader.listen(db);
  const client = await db.connect();
  const expectRings = async (what: string, rings: number): Promise<void> => {
    await bell.settle();
    assert.deepEqual(
      bell.payloads.splice(0),
      Array.from({ length: rings }, () => ''),
      what,
    );
  };
  const id = await insertBySql(client);
  await expectRings('an insert', 1);
  await client.query('begin');
  await client.query('insert into baton.runs default values');
  await client.query('savepoint s');
  await client.query('insert into baton.runs (repository) select n::text from generate_series(1, 50) n');
  await client.query('release savepoint s');
  await client.query('update baton.runs set priority = 2');
  await expectRings('an open transaction', 0);
  await client.query('commit');
  await expectRings('a transaction of 103 changes', 1);
  await client.query('begin');
  await client.query('update baton.runs set priority = 3 where id = $1', [id]);
  await client.query('rollback');
  await expectRings('a rollback', 0);
  await client.query('update baton.runs set lease_expire_time = lease_expire_time where id = $1', [id]);
  await expectRings('a lease that was only extended', 0);
}
