import { setTimeout as pause } from 'node:timers/promises';
import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import type { CreateRunRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import { connect } from '../support/chaos_sql.js';
import type { Prng } from '../support/log_prng.js';
import { OK, UNKNOWN, type Books, type Send } from './books.js';
import { nowMs, type Caller } from './caller.js';
import { PIPELINES, PUT_PIPELINES, putRequest, WORKPLACES } from './pipelines.js';

export interface ClientContext {
  readonly name: string;
  readonly books: Books;
  readonly random: Prng;
  readonly signal: AbortSignal;
  /** Milliseconds between two pieces of work, at most. */
  readonly restMs: number;
}

const KEYS = ['red', 'green', 'blue', 'grey'] as const;
/** Runs of an operator's choice are among the last so many. */
const RECENT_RUNS = 60;

const rest = ({ random, restMs, signal }: ClientContext): Promise<unknown> =>
  pause(random.between(0, restMs), undefined, { signal }).catch(() => undefined);

function newRun(
  random: Prng,
  label: string,
  requestId: string,
): MessageInitShape<typeof CreateRunRequestSchema> {
  return {
    pipeline: random.pick(PIPELINES).name,
    repository: random.pick(KEYS),
    labels: { intent: label },
    requestId,
    priority: random.between(0, 9),
    input: { label },
    ...(random.chance(0.3) ? { concurrencyKey: random.pick(KEYS) } : {}),
    ...(random.chance(0.1) ? { maxAttempts: random.between(1, 3) } : {}),
    ...(random.chance(0.1) ? { scheduleTime: timestampFromMs(Date.now() + random.between(0, 1500)) } : {}),
  };
}

/** Creates runs by calls: alone and many at once, with and without request ids, and some twice on purpose. */
export async function createByCalls(caller: Caller, context: ClientContext): Promise<void> {
  const { books, random, signal } = context;
  while (!signal.aborted) {
    const label = books.name(context.name);
    const runs = random.chance(0.35) ? random.between(2, 10) : 1;
    const repeatable = random.chance(0.85);
    const requests = Array.from({ length: runs }, (_, n) =>
      newRun(random, label, repeatable ? `${label}/${n}` : ''),
    );
    const sends: Send[] = [];
    const intent = { label, runs, repeatable, sends, answers: [] as string[][] };
    books.creates.push(intent);
    const times = repeatable ? 40 : 1;
    for (let round = random.chance(0.15) && repeatable ? 2 : 1; round > 0; round -= 1) {
      const ids =
        runs === 1
          ? await caller.ask(
              'CreateRun',
              sends,
              async ({ jobs }, options) => [(await jobs.createRun(requests[0] ?? {}, options)).run],
              { times },
            )
          : await caller.ask(
              'BatchCreateRuns',
              sends,
              async ({ jobs }, options) => (await jobs.batchCreateRuns({ requests }, options)).runs,
              { times },
            );
      if (ids !== undefined) intent.answers.push(ids.map((run) => run?.id ?? ''));
    }
    books.knownRuns.push(...(intent.answers[0] ?? []));
    await rest(context);
  }
}

/** Creates runs as a program does that knows SQL only. A commit that was not answered may have happened. */
export async function createBySql(databaseUrl: string, context: ClientContext): Promise<void> {
  const { books, random, signal } = context;
  while (!signal.aborted) {
    const label = books.name(context.name);
    const runs = random.between(1, 4);
    const sends: Send[] = [];
    books.creates.push({ label, runs, repeatable: false, sends, answers: [] });
    const at = nowMs();
    let answer = 'NEVER_SENT';
    let client;
    try {
      client = await connect(databaseUrl);
      await client.query('begin');
      await client.query(
        `insert into baton.runs (pipeline, repository, labels, priority)
         select $1, $2, jsonb_build_object('intent', $3::text), $4 from generate_series(1, $5::int)`,
        [random.pick(PIPELINES).name, random.pick(KEYS), label, random.between(0, 9), runs],
      );
      if (random.chance(0.2)) await pause(random.between(0, 300));
      if (random.chance(0.15)) {
        await client.query('rollback');
        answer = 'ROLLED_BACK';
      } else {
        answer = UNKNOWN;
        await client.query('commit');
        answer = OK;
      }
    } catch {
      await pause(200);
    }
    await client?.end().catch(() => undefined);
    sends.push({ at, endedAt: nowMs(), answer, swallowed: false });
    await rest(context);
  }
}

/** Cancels and retries runs, puts pipelines again, pauses and resumes stages. */
export async function operate(caller: Caller, context: ClientContext): Promise<void> {
  const { books, random, signal } = context;
  while (!signal.aborted) {
    const dice = random.next();
    if (dice < 0.45) await cancel(caller, context);
    else if (dice < 0.8) await retry(caller, context);
    else if (dice < 0.9) await put(caller, context);
    else await pauseStage(caller, context);
    // Nothing to do before there are runs.
    await (books.knownRuns.length === 0 ? pause(50) : rest(context));
  }
}

async function cancel(caller: Caller, { books, random, name }: ClientContext): Promise<void> {
  const runId = books.knownRuns.at(-random.between(1, Math.min(RECENT_RUNS, books.knownRuns.length)));
  if (runId === undefined) return;
  const reason = books.name(`canceled by ${name}`);
  const sends: Send[] = [];
  const intent = { runId, reason, sends, shown: undefined as never };
  books.cancels.push(intent);
  const response = await caller.ask('CancelRun', sends, ({ jobs }, options) =>
    jobs.cancelRun({ runId, reason }, options),
  );
  Object.assign(intent, { shown: response?.run });
}

async function retry(caller: Caller, { books, random }: ClientContext): Promise<void> {
  const states = random.pick([[RunState.FAILED], [RunState.CANCELED], [RunState.FAILED, RunState.SUCCEEDED]]);
  const listed = await caller.ask(
    'ListRuns',
    [],
    ({ jobs }, options) => jobs.listRuns({ filter: { states }, pageSize: 20 }, options),
    { times: 3 },
  );
  const runs = listed?.runs ?? [];
  if (runs.length === 0) return;
  const runId = random.pick(runs).id;
  const sends: Send[] = [];
  books.retries.push({ runId, sends });
  await caller.ask('RetryRun', sends, ({ jobs }, options) => jobs.retryRun({ runId }, options));
}

async function put(caller: Caller, { books, random, name }: ClientContext): Promise<void> {
  const spec = random.pick(PUT_PIPELINES);
  const request = putRequest(spec, books.name(`put by ${name}`));
  const sends: Send[] = [];
  books.puts.push({ pipeline: spec.name, sends });
  await caller.ask('PutPipeline', sends, ({ pipelines }, options) => pipelines.putPipeline(request, options));
}

/** Resumed by whoever paused it, also when the run is over by then; see `resumeAll`. */
async function pauseStage(caller: Caller, { random }: ClientContext): Promise<void> {
  const { pipeline, stage } = random.pick(WORKPLACES);
  const target = { name: pipeline.name, stage: stage.name };
  await caller.ask(
    'PausePipeline',
    [],
    ({ pipelines }, options) => pipelines.pausePipeline(target, options),
    { times: 2 },
  );
  await pause(random.between(50, 500));
  await caller.ask('ResumePipeline', [], ({ pipelines }, options) =>
    pipelines.resumePipeline(target, options),
  );
}

/** A pause whose call was given up may have been made all the same. */
export async function resumeAll(caller: Caller): Promise<void> {
  for (const { pipeline, stage } of WORKPLACES) {
    const target = { name: pipeline.name, stage: stage.name };
    await caller.ask('ResumePipeline', [], ({ pipelines }, options) =>
      pipelines.resumePipeline(target, options),
    );
  }
}
