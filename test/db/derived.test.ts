/**
 * What a run is after a change is said in two places: by the server's own statements where they are a transaction by
 * themselves, and by the trigger for all other SQL (migration 0008). Each is the oracle of the other: two runs go the
 * same way, one through each, and are compared with their events after every step.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { STAGE_DEFAULTS, type PipelineDefinition } from '../../src/run/pipeline.js';
import type { Queryable } from '../../src/store/pool.js';
import { claimRuns } from '../../src/store/sql/claim_runs.js';
import { cancelRuns } from '../../src/store/sql/cancel_runs.js';
import { expireLeases } from '../../src/store/sql/expire_leases.js';
import { putPipeline } from '../../src/store/sql/put_pipeline.js';
import { retryRuns } from '../../src/store/sql/retry_runs.js';
import { decodeLeaseToken } from '../../src/store/lease_token.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { create, fresh, must, update, type Held, type UpdateFields } from '../support/log_runs.js';
import { fc } from '../support/seed.js';

/** Stages that differ in all that a move depends on; no jitter, so that both wait equally long. */
function definition(name: string): PipelineDefinition {
  const backoff = { initialMs: 0, multiplier: 1, maxMs: 0, jitter: 0 };
  const stage = { ...STAGE_DEFAULTS, backoff };
  return {
    ...{ name, description: '', initialStatus: 'new', errorStatus: 'error', canceledStatus: 'canceled' },
    schedules: [],
    stages: [
      { ...stage, name: 'one', processingStatus: 'doing-one', doneStatus: 'one-done', maxAttempts: 2 },
      { ...stage, name: 'two', processingStatus: 'doing-two', doneStatus: 'two-done', timeoutMs: 20_000 },
      { ...stage, name: 'three', processingStatus: 'doing-three', doneStatus: 'success', maxAttempts: 5 },
    ],
  };
}
const STAGES = ['one', 'two', 'three'] as const;
const WAITING = ['new', 'one-done', 'two-done'] as const;
const DONE = ['one-done', 'two-done', 'success'] as const;

/** Takes out what a statement says beyond what plain SQL would, so that the trigger has to derive it. */
const FORGET = `
create function baton.forget() returns trigger language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    new.stage := null; new.status := null; new.state := null; new.attempts_allowed := null; new.version := null;
    new.create_time := null; new.update_time := null; new.claimable_time := null;
    return new;
  end if;
  new.stage := old.stage; new.state := old.state; new.version := old.version; new.update_time := old.update_time;
  new.attempt_time := old.attempt_time; new.start_time := old.start_time; new.end_time := old.end_time;
  new.claimable_time := old.claimable_time; new.ended_stage := old.ended_stage; new.status_time := old.status_time;
  -- A report of failure has decided by this number, and says so.
  if new.error_code is not distinct from old.error_code or new.error_code is null then
    new.attempts_allowed := old.attempts_allowed;
  end if;
  return new;
end
$$;
create trigger aa_forget before insert or update on baton.runs
  for each row when (current_setting('baton.append', true) is distinct from 'statement')
  execute function baton.forget();`;

/** One of the two: its pipeline keeps the claims of one from the other. */
interface Twin {
  readonly pipeline: string;
  readonly id: string;
  held: Held | undefined;
  /** Runs the statements as one does: each by itself, or inside a longer transaction. */
  readonly by: <T>(work: (db: Queryable) => Promise<T>) => Promise<T>;
}

type Step =
  | { readonly kind: 'claim'; readonly requestId: string }
  | { readonly kind: 'report'; readonly status: 'done' | 'same' | 'wait' | 'error' | 'canceled' }
  | { readonly kind: 'cancel' | 'expire' | 'retry' };
type Command = Step & { readonly fields: UpdateFields };

const payload = fc.constantFrom({ n: 1 }, { n: 2 }, {}, undefined);
const news: fc.Arbitrary<UpdateFields> = fc.record({
  output: payload,
  checkpoint: payload,
  progress: fc.constantFrom(0, 0.5, 1, undefined),
  statusMessage: fc.constantFrom('', 'a', undefined),
  retryable: fc.boolean(),
  retryDelayMs: fc.constantFrom(0, 3_600_000, undefined),
  errorCode: fc.constantFrom('E', undefined),
});
const command: fc.Arbitrary<Command> = fc
  .tuple(
    fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ kind: fc.constant('claim'), requestId: fc.constantFrom('', 'r') }),
      },
      {
        weight: 8,
        arbitrary: fc.record({
          kind: fc.constant('report'),
          status: fc.constantFrom(
            'done',
            'done',
            'done',
            'same',
            'wait',
            'wait',
            'error',
            'error',
            'canceled',
          ),
        }),
      },
      { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom('cancel', 'expire', 'retry') }) },
    ) as fc.Arbitrary<Step>,
    news,
  )
  .map(([step, fields]) => ({ ...step, fields }));

const NO_NEWS: UpdateFields = {
  output: undefined,
  checkpoint: undefined,
  progress: undefined,
  statusMessage: undefined,
  retryable: false,
  retryDelayMs: undefined,
  errorCode: undefined,
};
const PLAIN = {
  maxAttempts: 4,
  priority: 0,
  input: undefined,
  requestId: '',
  scheduleTime: undefined,
} as const;
const CLAIM = { kind: 'claim', requestId: '', fields: NO_NEWS } as const;
const RETRYABLE = { ...NO_NEWS, errorCode: 'E', retryable: true };
/** What chance may leave out. */
const EXAMPLES: Command[][] = [
  [CLAIM, { kind: 'expire', fields: NO_NEWS }],
  [CLAIM, { kind: 'report', status: 'error', fields: RETRYABLE }],
  [CLAIM, { kind: 'report', status: 'error', fields: NO_NEWS }, { kind: 'retry', fields: NO_NEWS }],
  [CLAIM, { kind: 'report', status: 'wait', fields: NO_NEWS }],
  [CLAIM, { kind: 'cancel', fields: NO_NEWS }],
];

async function claimStage(db: Queryable, twin: Twin, stage: string, requestId: string): Promise<void> {
  const slots = [{ workerId: 'w', leaseMs: 0, maxRuns: 1, requestId }];
  const { claims } = await claimRuns(db, { pipeline: twin.pipeline, stage, slots });
  const [claim] = claims.flat();
  if (claim !== undefined)
    twin.held = { run: claim.run, lease: must(decodeLeaseToken(claim.leaseToken), 'a token') };
}

/** Does a step; one that does not fit changes nothing, for both alike. */
async function apply(db: TestDatabase, twin: Twin, step: Command): Promise<void> {
  switch (step.kind) {
    case 'claim':
      for (const stage of STAGES) await twin.by((by) => claimStage(by, twin, stage, step.requestId));
      return;
    case 'report': {
      const { held } = twin;
      if (held === undefined) return;
      const stage = STAGES.findIndex((name) => name === held.run.stage);
      const statuses = { done: DONE[stage], same: held.run.status, wait: WAITING[stage], error: 'error' };
      const status = step.status === 'canceled' ? 'canceled' : must(statuses[step.status], 'a status');
      // An error goes with a failure only; the rest is refused where it does not fit.
      const fields = step.status === 'error' ? step.fields : { ...step.fields, errorCode: undefined };
      await twin.by((by) => update(by, held, status, fields));
      return;
    }
    case 'cancel':
      await cancelRuns(db.pool, [twin.id], '');
      return;
    case 'expire':
      await db.pool.query(
        `update baton.runs set lease_expire_time = clock_timestamp() - interval '1 second'
         where id = $1 and lease_id is not null`,
        [twin.id],
      );
      await expireLeases(db.pool, 10);
      return;
    case 'retry':
      await retryRuns(db.pool, [twin.id], '');
  }
}

/** Times that are reckoned from the time of the change: told in tens of seconds from it, however busy the machine is. */
const RECKONED = ['lease_expire_time', 'schedule_time', 'claimable_time'];

/** A row without what differs by nature: other times are told by which time of the row they are. */
function comparable(row: Record<string, unknown>): Record<string, unknown> {
  const reckoned = (value: unknown): unknown => {
    const tens = Math.round((Date.parse(String(value)) - Date.parse(String(row['update_time']))) / 10_000);
    // A time that was asked for is the same for both.
    return Math.abs(tens) > 8640 ? value : tens;
  };
  const told = Object.entries(row).map(([name, value]) => {
    if (!name.endsWith('_time') || value === null) return [name, value];
    if (RECKONED.includes(name)) return [name, reckoned(value)];
    return [name, ['create_time', 'update_time'].filter((other) => row[other] === value)];
  });
  const left = Object.fromEntries(told) as Record<string, unknown>;
  for (const name of ['id', 'run_id', 'pipeline', 'revision', 'append_time', 'waited']) delete left[name];
  left['lease_id'] = left['lease_id'] !== null;
  return left;
}

async function look(db: Queryable, { id }: Twin): Promise<object> {
  const [row] = await db.query<{ run: Record<string, unknown>; events: Record<string, unknown>[] }>(
    `select to_jsonb(r) as run, (
       select jsonb_agg(to_jsonb(e) order by e.version) from baton.run_events e where e.run_id = r.id
     ) as events
     from baton.runs r where r.id = $1`,
    [id],
  );
  const { run, events } = must(row, `run ${id}`);
  return { run: comparable(run), events: events.map(comparable) };
}

describeOnEveryPostgres('what a run is after a change', (open) => {
  void test(
    'is the same by the statements of the server and by the trigger for all SQL',
    fresh(open, async (db) => {
      const kinds = new Set<string>();
      let named = 0;
      await db.pool.query(FORGET);
      for (const name of ['by-statement', 'by-trigger'])
        await db.pool.transaction((tx) => putPipeline(tx, definition(name)));
      const asked = fc.record({
        maxAttempts: fc.constantFrom(0, 1, 4),
        priority: fc.constantFrom(0, 7),
        input: payload,
        requestId: fc.constantFrom('', 'id'),
        scheduleTime: fc.constantFrom(
          undefined,
          new Date('2020-01-01T00:00:00Z'),
          new Date('2100-01-01T00:00:00Z'),
        ),
      });
      await fc.assert(
        fc.asyncProperty(asked, fc.array(command, { minLength: 4, maxLength: 16 }), async (fields, steps) => {
          const twin = async (pipeline: string, by: Twin['by']): Promise<Twin> => {
            const requestId = fields.requestId === '' ? '' : `${pipeline} ${(named += 1)}`;
            const run = { ...fields, pipeline, requestId, requestHash: Buffer.alloc(32) };
            const [made] = await by((one) => create(one, run));
            return { pipeline, id: must(made, 'a run').id, held: undefined, by };
          };
          const twins = [
            await twin('by-statement', (work) => work(db.pool)),
            await twin('by-trigger', (work) => db.pool.transaction(work)),
          ];
          try {
            for (const step of [undefined, ...steps]) {
              const seen: object[] = [];
              for (const one of twins) {
                if (step !== undefined) await apply(db, one, step);
                const { request_id: _, ...run } = (await look(db.pool, one)) as Record<string, unknown>;
                seen.push(run);
              }
              const [byStatement, byTrigger] = seen.map((one) =>
                JSON.parse(JSON.stringify(one).replaceAll(/"by-(statement|trigger) \d+"/g, '"id"')),
              ) as [{ events: { type: string }[] }, object];
              assert.deepEqual(byStatement, byTrigger);
              for (const { type } of byStatement.events) kinds.add(type);
            }
          } finally {
            await db.pool.query(
              `update baton.runs set status = 'canceled' where state in ('PENDING', 'ACTIVE')`,
            );
          }
        }),
        { numRuns: 100, examples: EXAMPLES.map((steps): [typeof PLAIN, Command[]] => [PLAIN, steps]) },
      );
      const all =
        'CREATED CLAIMED UPDATED STAGE_COMPLETED FAILED CANCELED CANCEL_REQUESTED RELEASED RETRY_SCHEDULED';
      for (const kind of `${all} LEASE_EXPIRED RETRIED`.split(' '))
        assert.ok(kinds.has(kind), `no ${kind} was made`);
    }),
  );

  void test(
    'is derived for plain SQL also where that counts the version itself',
    fresh(open, async (db) => {
      const [run] = await create(db.pool, {});
      const { id } = must(run, 'a run');
      await db.pool.query(`update baton.runs set status = 'canceled', version = version + 1 where id = $1`, [
        id,
      ]);
      const [row] = await db.pool.query(
        'select stage, state::text, version, end_time = update_time as ended from baton.runs where id = $1',
        [id],
      );
      assert.deepEqual(row, { stage: '', state: 'CANCELED', version: 2n, ended: true });
    }),
  );

  void test(
    'is derived for what a trigger of a user writes inside a statement of the server',
    fresh(open, async (db) => {
      const [run, other] = await create(db.pool, {}, { priority: 1 });
      await db.pool.query(`
        create table public.follow (other uuid);
        create function public.follow() returns trigger language plpgsql as $$
        begin
          insert into baton.runs (repository) values ('follows');
          update baton.runs set status = 'canceled' where id = (select f.other from public.follow f);
          return null;
        end $$;
        create trigger follow after update on baton.runs for each row when (new.status = 'initializing')
          execute function public.follow();`);
      await db.pool.query('insert into public.follow values ($1)', [must(run, 'a run').id]);
      const slots = [{ workerId: 'w', leaseMs: 0, maxRuns: 1 }];
      const { claims } = await claimRuns(db.pool, { pipeline: 'ci', stage: 'initialize', slots });
      assert.equal(claims.flat()[0]?.run.id, must(other, 'a run').id);
      const rows = await db.pool.query(
        `select repository, stage, status, state::text, version, status_time = update_time as timed from baton.runs
         where id <> $1 order by create_time`,
        [must(other, 'a run').id],
      );
      assert.deepEqual(rows, [
        { repository: '', stage: '', status: 'canceled', state: 'CANCELED', version: 2n, timed: true },
        {
          repository: 'follows',
          stage: 'initialize',
          status: 'new',
          state: 'PENDING',
          version: 1n,
          timed: true,
        },
      ]);
      const events = await db.pool.query('select type::text from baton.run_events order by revision');
      assert.deepEqual(events.map(({ type }) => type as string).sort(), [
        ...['CANCELED', 'CLAIMED', 'CREATED', 'CREATED', 'CREATED'],
      ]);
    }),
  );
});
