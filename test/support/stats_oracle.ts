import assert from 'node:assert/strict';
import type { Client } from '@connectrpc/connect';
import { timestampMs, type Duration } from '@bufbuild/protobuf/wkt';
import type { JobService } from '../../gen/baton/v1/job_service_pb.js';
import type { Pipeline } from '../../gen/baton/v1/pipeline_pb.js';
import type { PipelineStats } from '../../gen/baton/v1/pipeline_service_pb.js';
import { EventType, type RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';

/** The API's times are cut to the millisecond, and a wait is the difference of two. */
const TOLERANCE_MS = 2;

/** What one stage should show, from the histories of runs. */
export interface StageModel {
  pending: number;
  active: number;
  completions: number;
  /** The times since when runs that wait are claimable, in milliseconds of the database's clock. */
  readonly claimableSince: number[];
  /** In milliseconds, of every claim. */
  readonly waits: number[];
}

export interface PipelineModel {
  succeeded: number;
  failed: number;
  canceled: number;
  readonly stages: Map<string, StageModel>;
}

/** When a run that waits can be claimed, by the contract: when it began to wait, or at its schedule_time. */
function claimableAt(run: Run): number {
  const schedule = run.scheduleTime === undefined ? 0 : timestampMs(run.scheduleTime);
  return Math.max(run.updateTime === undefined ? 0 : timestampMs(run.updateTime), schedule);
}

const scheduleOf = (run: Run | undefined): number | undefined =>
  run?.scheduleTime === undefined ? undefined : timestampMs(run.scheduleTime);

/** Goes through the history of one run as the API tells it, and adds what it says to the model. */
function count(model: PipelineModel, definition: Pipeline, events: readonly RunEvent[]): void {
  let claimable = 0;
  let before: Run | undefined;
  for (const { run, type } of events) {
    assert.ok(run);
    const began = before === undefined || before.status !== run.status;
    if (run.state === RunState.PENDING && (began || scheduleOf(before) !== scheduleOf(run)))
      claimable = claimableAt(run);
    if (type === EventType.CLAIMED)
      model.stages.get(run.stage)?.waits.push(claimableAt({ ...run, scheduleTime: undefined }) - claimable);
    const left = definition.stages.find((stage) => stage.name === before?.stage);
    const stage = model.stages.get(left?.name ?? '');
    if (began && stage !== undefined && left?.doneStatus === run.status) stage.completions += 1;
    before = run;
  }
  if (before === undefined) return;
  if (before.state === RunState.SUCCEEDED) model.succeeded += 1;
  if (before.state === RunState.FAILED) model.failed += 1;
  if (before.state === RunState.CANCELED) model.canceled += 1;
  const stage = model.stages.get(before.stage);
  if (stage === undefined) return;
  if (before.state === RunState.ACTIVE) stage.active += 1;
  if (before.state === RunState.PENDING) {
    stage.pending += 1;
    stage.claimableSince.push(claimable);
  }
}

/** Counts anew, in plain steps, from what ListRuns and ListRunEvents tell. */
export async function recount(
  jobs: Client<typeof JobService>,
  definitions: readonly Pipeline[],
): Promise<Map<string, PipelineModel>> {
  const models = new Map<string, PipelineModel>();
  for (const definition of definitions) {
    const stages = definition.stages.map(({ name }): [string, StageModel] => [
      name,
      { pending: 0, active: 0, completions: 0, claimableSince: [], waits: [] },
    ]);
    models.set(definition.name, { succeeded: 0, failed: 0, canceled: 0, stages: new Map(stages) });
  }
  const { runs, nextPageToken } = await jobs.listRuns({ pageSize: 1000 });
  assert.equal(nextPageToken, '', 'the oracle reads one page');
  for (const { id, pipeline } of runs) {
    const model = models.get(pipeline);
    const definition = definitions.find(({ name }) => name === pipeline);
    if (model === undefined || definition === undefined) continue;
    const { events } = await jobs.listRunEvents({ runId: id, pageSize: 1000 });
    count(model, definition, events);
  }
  return models;
}

/** Between the two values around the place of a share of a sorted list, as a continuous percentile is. */
function percentile(values: readonly number[], share: number): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const place = share * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(place)], sorted[Math.ceil(place)]];
  return low === undefined || high === undefined ? undefined : low + (high - low) * (place % 1);
}

export const durationMs = (value: Duration | undefined): number | undefined =>
  value === undefined ? undefined : Number(value.seconds) * 1000 + value.nanos / 1e6;

function near(actual: Duration | undefined, low: number | undefined, high = low, what = ''): void {
  const ms = durationMs(actual);
  if (ms === undefined || low === undefined || high === undefined) {
    assert.equal(ms, low, what);
    return;
  }
  assert.ok(
    ms >= low - TOLERANCE_MS && ms <= high + TOLERANCE_MS,
    `${what} is ${ms} ms, expected ${low} to ${high}`,
  );
}

/**
 * Holds an answer of GetStats against the model.
 *
 * @param asked the database's clock before and after the call, in milliseconds
 */
export function assertStats(
  actual: readonly PipelineStats[],
  models: ReadonlyMap<string, PipelineModel>,
  asked: readonly [before: number, after: number],
): void {
  assert.deepEqual(
    actual.map(({ pipeline }) => pipeline),
    [...models.keys()].sort(),
  );
  for (const stats of actual) {
    const model = models.get(stats.pipeline);
    assert.ok(model);
    assert.deepEqual(
      [stats.succeededCount, stats.failedCount, stats.canceledCount],
      [model.succeeded, model.failed, model.canceled].map(BigInt),
      `ended runs of ${stats.pipeline}`,
    );
    assert.deepEqual(
      stats.stages.map(({ stage }) => stage),
      [...model.stages.keys()],
    );
    for (const stage of stats.stages) {
      const expected = model.stages.get(stage.stage);
      assert.ok(expected);
      const what = `${stats.pipeline}/${stage.stage}`;
      assert.deepEqual(
        [
          stage.pendingCount,
          stage.activeCount,
          Math.round(stage.claimsPerSecond * 60),
          Math.round(stage.completionsPerSecond * 60),
        ],
        [BigInt(expected.pending), BigInt(expected.active), expected.waits.length, expected.completions],
        what,
      );
      near(stage.waitP50, percentile(expected.waits, 0.5), undefined, `${what} p50`);
      near(stage.waitP95, percentile(expected.waits, 0.95), undefined, `${what} p95`);
      const [low, high] = asked;
      const due = expected.claimableSince.filter((time) => time <= low);
      const oldest = due.length === 0 ? undefined : Math.min(...due);
      near(
        stage.oldestWaitingAge,
        oldest === undefined ? undefined : low - oldest,
        oldest === undefined ? undefined : high - oldest,
        `${what} oldest`,
      );
    }
  }
}
