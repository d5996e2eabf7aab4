import type { TestContext } from 'node:test';
import type pg from 'pg';
import type { Queryable } from '../../src/store/pool.js';
import type { ClaimSlot } from '../../src/store/sql/claim_runs.js';
import { claimRuns } from '../../src/store/sql/claim_runs.js';
import { createRuns, type NewRun } from '../../src/store/sql/create_runs.js';
import { decodeLeaseToken, type LeaseKey } from '../../src/store/lease_token.js';
import { updateRuns, type RunUpdate } from '../../src/store/sql/update_runs.js';
import type { JsonObject, Run } from '../../src/run/run.js';
import type { Open, TestDatabase } from './database.js';

/** A test with a database of its own, which is dropped after it however it ends. */
export function fresh(
  open: Open,
  work: (db: TestDatabase) => Promise<void>,
  template?: 'baton_template' | 'template1',
): (t: TestContext) => Promise<void> {
  return async (t) => {
    const db = await open(template);
    t.after(() => db.drop());
    await work(db);
  };
}

/** What a statement takes as JSON text, as a test would rather say it. */
type Plain<T, K extends keyof T> = Partial<Omit<T, K> & { readonly [key in K]: JsonObject | undefined }>;
export type RunFields = Plain<NewRun, 'input'>;
export type UpdateFields = Plain<RunUpdate, 'output' | 'checkpoint'>;

function text(value: JsonObject | undefined): string | undefined {
  return value && JSON.stringify(value);
}

/** A run as a caller of the service makes it; a test names only what it is about. */
export function newRun({ input, ...fields }: RunFields = {}): NewRun {
  return {
    pipeline: 'ci',
    repository: '',
    labels: {},
    input: text(input),
    priority: 0,
    scheduleTime: undefined,
    concurrencyKey: '',
    maxAttempts: 0,
    requestId: '',
    requestHash: undefined,
    traceParent: '',
    ...fields,
  };
}

/** Creates runs by the server's own statement and returns them in the order given. */
export async function create(db: Queryable, ...runs: RunFields[]): Promise<Run[]> {
  const wanted = runs.map((fields) => newRun(fields));
  const made = await createRuns(db, wanted);
  return wanted.map((run) => must(made.get(run), 'a run to be created'));
}

/** Inserts one waiting run by plain SQL. */
export async function insertBySql(client: pg.Client, repository = ''): Promise<string> {
  const result = await client.query<{ id: string }>(
    'insert into baton.runs (repository) values ($1) returning id',
    [repository],
  );
  return must(result.rows[0], 'an inserted row').id;
}

export interface Held {
  readonly run: Run;
  readonly lease: LeaseKey;
}

export function must<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`expected ${what}`);
  return value;
}

/** Claims up to `runs` for one worker. */
export async function claim(
  db: Queryable,
  stage: string,
  runs = 1,
  slot: Partial<ClaimSlot> = {},
): Promise<Held[]> {
  const { claims } = await claimRuns(db, {
    pipeline: 'ci',
    stage: stage,
    slots: [{ workerId: 'w', leaseMs: 0, maxRuns: runs, ...slot }],
  });
  return (claims[0] ?? []).map(({ run, leaseToken }) => ({
    run,
    lease: must(decodeLeaseToken(leaseToken), 'a lease token'),
  }));
}

/** Claims the one run that waits. */
export async function claimOne(
  db: Queryable,
  stage = 'initialize',
  slot: Partial<ClaimSlot> = {},
): Promise<Held> {
  return must((await claim(db, stage, 1, slot))[0], `a run that waits in ${stage}`);
}

/** What a worker reports; a test names only what it is about. */
export function report(
  held: Held,
  status: string,
  { output, checkpoint, ...fields }: UpdateFields = {},
): RunUpdate {
  return {
    runId: held.run.id,
    lease: held.lease,
    status,
    output: text(output),
    errorCode: undefined,
    errorMessage: undefined,
    retryable: false,
    retryDelayMs: undefined,
    progress: undefined,
    statusMessage: undefined,
    checkpoint: text(checkpoint),
    ...fields,
  };
}

/** Reports by the server's own statement: the run as it is then, or undefined where that was refused. */
export async function update(
  db: Queryable,
  held: Held,
  status: string,
  fields: UpdateFields = {},
): Promise<Run | undefined> {
  return (await updateRuns(db, [report(held, status, fields)]))[0];
}

/** Lets a lease end, as time would. */
export async function endLease(db: Queryable, id: string): Promise<void> {
  await db.query(
    `update baton.runs set lease_expire_time = clock_timestamp() - interval '1 second' where id = $1`,
    [id],
  );
}

/**
 * The backends of this database that wait for a lock of a row, a transaction or their own making, by process id. Whole
 * tables are left out: for a moment anybody may wait for one while a server that has just started adds a partition. So
 * is the lock of commits that notify, for which those of all databases wait.
 *
 * @param part of the text of their statements
 */
export async function waitingForLock(db: Queryable, part = ''): Promise<number[]> {
  const rows = await db.query<{ pid: number }>(
    `select pid from pg_stat_activity
     where datname = current_database() and wait_event_type = 'Lock' and wait_event not in ('relation', 'object')
       and position($1::text in query) > 0`,
    [part],
  );
  return rows.map(({ pid }) => pid);
}
