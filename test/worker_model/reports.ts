import assert from 'node:assert/strict';
import { anyUnpack, durationFromMs } from '@bufbuild/protobuf/wkt';
import fc from 'fast-check';
import type { UpdateStatusResult } from '../../gen/baton/v1/job_service_pb.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { failure } from '../support/failure.js';
import {
  claimFields,
  claimRequest,
  command,
  expectedClaims,
  pick,
  server,
  type ClaimFields,
  type ModelCommand,
} from './command.js';
import type { ModelRun, Outcome, Report } from './model.js';
import { sameRun, takeClaims, type Rig, type Sim } from './rig.js';

const FAR_MS = 7_200_000;

const reportFields = fc.record({
  pick,
  live: fc.integer({ min: 0, max: 3 }).map((dice) => dice > 0),
  garbage: fc.integer({ min: 0, max: 30 }).map((dice) => dice === 0),
  to: fc.constantFrom(
    'done',
    'done',
    'done',
    'error',
    'error',
    'canceled',
    'waiting',
    'processing',
    'processing',
    'elsewhere',
    'nonsense',
  ),
  output: fc.integer({ min: 0, max: 3 }).map((dice) => dice === 0),
  error: fc.constantFrom('none', 'final', 'retryable', 'retryable', 'at once', 'far'),
  misplaced: fc.integer({ min: 0, max: 12 }).map((dice) => dice === 0),
  progress: fc.option(fc.constantFrom(0, 0.5, 1), { nil: undefined }),
  message: fc.boolean(),
  checkpoint: fc.boolean(),
});
type ReportFields = typeof reportFields extends fc.Arbitrary<infer T> ? T : never;

interface Wanted {
  readonly run: ModelRun;
  readonly token: string;
  readonly report: Report;
}

function statusOf({ pipeline, view, endedStage }: ModelRun, to: string): string {
  const name = view.stage === '' ? endedStage : view.stage;
  const stage = pipeline.stages.find((one) => one.name === name) ?? pipeline.stages[0];
  assert.ok(stage);
  const other = pipeline.stages.find((one) => one !== stage);
  const statuses: Readonly<Record<string, string>> = {
    done: stage.done,
    error: pipeline.error,
    canceled: pipeline.canceled,
    waiting: stage.waiting,
    processing: stage.processing,
    elsewhere: other?.processing ?? 'nowhere',
  };
  return statuses[to] ?? to;
}

function errorOf(kind: string, message: string): Report['error'] {
  if (kind === 'none') return undefined;
  const delayMs = kind === 'at once' ? 0 : kind === 'far' ? FAR_MS : undefined;
  return { code: 'E', message, retryable: kind !== 'final', delayMs };
}

function wanted(sim: Sim, fields: ReportFields): Wanted | undefined {
  const held = sim.token(fields.pick, fields.live);
  if (held === undefined) return undefined;
  const { run } = held;
  const status = statusOf(run, fields.to);
  const failing = status === run.pipeline.error;
  const withOutput = fields.output && (!['canceled', 'waiting'].includes(fields.to) || fields.misplaced);
  const report: Report = {
    status,
    output: withOutput ? { from: sim.name('output') } : undefined,
    error: failing || fields.misplaced ? errorOf(fields.error, sim.name('failure')) : undefined,
    progress: fields.progress,
    statusMessage: fields.message ? sim.name('message') : undefined,
    checkpoint: fields.checkpoint ? { at: sim.name('checkpoint') } : undefined,
  };
  return { run, token: fields.garbage ? 'A'.repeat(32) : held.token, report };
}

const toProto = ({ run, token, report }: Wanted) => ({
  runId: run.id,
  leaseToken: token,
  status: report.status,
  ...(report.output === undefined ? {} : { output: report.output }),
  ...(report.progress === undefined ? {} : { progress: report.progress }),
  ...(report.statusMessage === undefined ? {} : { statusMessage: report.statusMessage }),
  ...(report.checkpoint === undefined ? {} : { checkpoint: report.checkpoint }),
  ...(report.error === undefined ? {} : { error: errorToProto(report.error) }),
});

function errorToProto({ code, message, retryable, delayMs }: NonNullable<Report['error']>) {
  return {
    code,
    message,
    retryable,
    ...(delayMs === undefined ? {} : { retryDelay: durationFromMs(delayMs) }),
  };
}

/** An answer is the run, or the reason of a refusal. */
function sameOutcome(answer: Run | string | undefined, { run }: Wanted, outcome: Outcome): void {
  if (outcome === 'OK' || outcome === 'UNCHANGED') {
    if (typeof answer !== 'object') assert.fail(`${outcome} was expected, it was ${answer}`);
    sameRun(answer, run);
  } else if (outcome === 'UNCHANGED or LEASE_LOST') {
    if (typeof answer === 'object') sameRun(answer, run);
    else assert.equal(answer, 'LEASE_LOST');
  } else {
    assert.equal(typeof answer === 'object' ? `a run in ${answer.status}` : answer, outcome);
  }
}

async function answerOf(
  call: Promise<{ readonly run?: Run | undefined }>,
  refused: boolean,
): Promise<Run | string | undefined> {
  return refused ? (await failure(call)).reason : (await call).run;
}

async function send(sim: Sim, rig: Rig, at: number, what: Wanted, next?: ClaimFields): Promise<void> {
  const { run, token, report } = what;
  const { jobs } = rig.server(at);
  const request = next === undefined ? undefined : claimRequest(sim, next);
  const outcome = sim.model.report(run, token, report);
  rig.note(`update: ${outcome}`);
  const call = jobs.updateStatus({
    ...toProto(what),
    ...(request === undefined ? {} : { claimNext: request }),
  });
  if (outcome === 'UNCHANGED or LEASE_LOST') {
    const answer = await call.then(
      (response) => response,
      async () => (await failure(call)).reason,
    );
    sameOutcome(typeof answer === 'string' ? answer : answer.run, what, outcome);
    if (typeof answer === 'string' || request === undefined) return;
    takeClaims(sim, answer.claims, expectedClaims(sim, request), request);
    return;
  }
  const done = outcome === 'OK' || outcome === 'UNCHANGED';
  sameOutcome(await answerOf(call, !done), what, outcome);
  if (!done) return;
  const response = await call;
  assert.equal(response.cancelRequested, run.view.cancelRequested);
  // Both in one transaction: the claim sees what the report has done.
  takeClaims(
    sim,
    response.claims,
    request === undefined ? [] : expectedClaims(sim, request),
    request ?? NO_CLAIM,
  );
  if (response.claims.length > 0) rig.note('claimed with an update');
}

const NO_CLAIM = {
  pipeline: '',
  stage: '',
  workerId: '',
  maxRuns: 0,
  requestId: '',
  leaseDuration: durationFromMs(0),
};
const hasTokens = ({ tokens }: Sim): boolean => tokens.length > 0;

const update = fc
  .tuple(server, reportFields, fc.option(claimFields, { nil: undefined, freq: 4 }))
  .map(([at, fields, next]) =>
    command(
      `update to ${fields.to}${next === undefined ? '' : ' with a claim'} at ${at}`,
      async (sim, rig) => {
        const what = wanted(sim, fields);
        if (what === undefined) return;
        sim.reports.push(what);
        await send(sim, rig, at, what, next);
      },
      hasTokens,
    ),
  );

const updateAgain = fc.tuple(server, pick).map(([at, index]) =>
  command(
    `updateAgain at ${at}`,
    async (sim, rig) => {
      const what = sim.reports[index % sim.reports.length];
      assert.ok(what);
      await send(sim, rig, at, what);
    },
    ({ reports }) => reports.length > 0,
  ),
);

function itemAnswer({ result }: UpdateStatusResult): Run | string | undefined {
  if (result.case === 'run') return result.value;
  const [info] = (result.value?.details ?? []).map((detail) => anyUnpack(detail, ErrorInfoSchema));
  return info?.reason;
}

/** Of the runs that one batch makes wait the database says who came first: it changes them in the order of their ids. */
async function takeTurnsOf(sim: Sim, rig: Rig, runs: readonly ModelRun[]): Promise<void> {
  const due = runs.filter(({ view, dueInMs }) => view.state === 'PENDING' && dueInMs === 0);
  const rows = await rig.database.pool.query<{ id: string }>(
    'select id::text as id from baton.runs where id = any ($1::uuid[]) order by claimable_time, id',
    [due.map(({ id }) => id)],
  );
  const turns = due.map(({ turn }) => turn).sort((a, b) => a - b);
  rows.forEach(({ id }, index) => (sim.model.run(id).turn = turns[index] ?? 0));
}

const updateMany = fc.tuple(server, fc.array(reportFields, { minLength: 2, maxLength: 4 })).map(([at, all]) =>
  command(
    `updateMany ${all.length} at ${at}`,
    async (sim, rig) => {
      const items = all.map((fields) => wanted(sim, fields)).filter((what) => what !== undefined);
      const { results } = await rig.server(at).jobs.batchUpdateStatus({ requests: items.map(toProto) });
      // Each run is shown as it is after its item, so the model has to keep pace; those of one run are in order.
      const last = new Map(items.map((what, index) => [what.run, index]));
      const turns = new Map(items.map(({ run }) => [run, run.turn]));
      items.forEach((what, index) => {
        sim.reports.push(what);
        const outcome = sim.model.report(what.run, what.token, what.report);
        rig.note(`item: ${outcome}`);
        const result = results[index];
        assert.ok(result);
        const answer = itemAnswer(result);
        // What is as it was may be shown as a later item of the batch has left it.
        if (outcome !== 'UNCHANGED' && outcome !== 'UNCHANGED or LEASE_LOST')
          sameOutcome(answer, what, outcome);
        else if (last.get(what.run) === index) sameOutcome(answer, what, outcome);
      });
      await takeTurnsOf(
        sim,
        rig,
        [...last.keys()].filter((run) => run.turn !== turns.get(run)),
      );
    },
    hasTokens,
  ),
);

export const updateCommands: Readonly<
  Record<'update' | 'updateAgain' | 'updateMany', fc.Arbitrary<ModelCommand>>
> = {
  update,
  updateAgain,
  updateMany,
};
