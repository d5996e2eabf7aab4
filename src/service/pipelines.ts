import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import {
  statusMeanings,
  type Pipeline,
  type PipelineDefinition,
  type StageDefinition,
} from '../run/pipeline.js';
import { pipelineBytes } from '../run/pipeline_size.js';
import { fitItems } from '../run/run_size.js';
import type { Pool } from '../store/pool.js';
import {
  getPipeline as selectPipeline,
  listPipelines as selectPipelines,
} from '../store/sql/get_pipelines.js';
import { deletePipeline as removePipeline } from '../store/sql/delete_pipeline.js';
import { pausePipeline, pauseStage } from '../store/sql/pause_pipeline.js';
import { putPipeline as writePipeline } from '../store/sql/put_pipeline.js';
import { putSchedules } from '../store/sql/put_schedules.js';
import { readScheduleTimes } from '../store/sql/read_schedule_times.js';
import type { ListPipelinesRequest, ListPipelinesResponse, PauseRequest } from './api.js';
import { unknownStage } from './claim_within_limits.js';
import { decodePageToken, encodePageToken } from './page_token.js';
import { planSchedules, validateSchedule } from './schedule_rules.js';
import { Checks } from './validate.js';

function validateStage(found: Checks, stage: StageDefinition): void {
  found.name('name', stage.name);
  found.name('processing_status', stage.processingStatus);
  found.name('done_status', stage.doneStatus);
  found.durationMs('lease_duration', stage.leaseMs, LIMITS.leaseMinMs, LIMITS.leaseMaxMs);
  if (stage.timeoutMs !== 0)
    found.durationMs('timeout', stage.timeoutMs, LIMITS.timeoutMinMs, LIMITS.timeoutMaxMs);
  found.integer('max_attempts', stage.maxAttempts, 1, LIMITS.attemptsMax);
  found.durationMs('backoff.initial', stage.backoff.initialMs, 0, LIMITS.backoffMaxMs);
  found.number('backoff.multiplier', stage.backoff.multiplier, 1, LIMITS.backoffMultiplierMax);
  found.durationMs('backoff.max', stage.backoff.maxMs, 0, LIMITS.backoffMaxMs);
  found.number('backoff.jitter', stage.backoff.jitter, 0, 1);
  found.integer('max_active', stage.maxActive, 0, LIMITS.activeMax);
  found.integer('max_active_per_key', stage.maxActivePerKey, 0, LIMITS.activeMax);
}

/** Where in the definition each status comes from, in the order of `statusMeanings`. */
function statusFields(definition: PipelineDefinition): string[] {
  const stages = definition.stages.flatMap((_, index) => [
    index === 0 ? 'initial_status' : `stages[${index - 1}].done_status`,
    `stages[${index}].processing_status`,
  ]);
  const last = definition.stages.length - 1;
  return [...stages, ...(last < 0 ? [] : [`stages[${last}].done_status`]), 'error_status', 'canceled_status'];
}

function validateDistinct(found: Checks, values: readonly string[], fields: readonly string[]): void {
  const first = new Map<string, string>();
  values.forEach((value, index) => {
    const field = fields[index] ?? '';
    const earlier = first.get(value);
    if (earlier === undefined) first.set(value, field);
    else if (value !== '')
      found.add(field, `must differ from ${earlier}, which is ${JSON.stringify(value)} too`);
  });
}

/** @param found with the path of the pipeline */
export function validatePipeline(found: Checks, definition: PipelineDefinition): void {
  found.name('name', definition.name);
  found.text('description', definition.description, LIMITS.descriptionChars);
  found.name('initial_status', definition.initialStatus);
  found.name('error_status', definition.errorStatus);
  found.name('canceled_status', definition.canceledStatus);
  const { stages } = definition;
  if (stages.length < 1 || stages.length > LIMITS.stagesPerPipeline) {
    found.add('stages', `must have 1 to ${LIMITS.stagesPerPipeline} stages, has ${stages.length}`);
  } else {
    stages.forEach((stage, index) => validateStage(found.at(`stages[${index}]`), stage));
    const names = stages.map((_, index) => `stages[${index}].name`);
    validateDistinct(
      found,
      stages.map((stage) => stage.name),
      names,
    );
    validateDistinct(
      found,
      statusMeanings(definition).map((row) => row.status),
      statusFields(definition),
    );
  }
  const { schedules } = definition;
  if (schedules.length > LIMITS.schedulesPerPipeline) {
    found.add(
      'schedules',
      `must have at most ${LIMITS.schedulesPerPipeline} schedules, has ${schedules.length}`,
    );
  } else {
    schedules.forEach((schedule, index) => validateSchedule(found.at(`schedules[${index}]`), schedule));
    validateDistinct(
      found,
      schedules.map((schedule) => schedule.name),
      schedules.map((_, index) => `schedules[${index}].name`),
    );
    // It is answered as a whole. What has no size was found above.
    const bytes = pipelineBytes(definition);
    if (bytes > LIMITS.answerBytes && bytes < Number.POSITIVE_INFINITY)
      found.add('schedules', `must not take more than ${LIMITS.answerBytes} bytes together, as encoded`);
  }
}

/**
 * Creates a pipeline or replaces its definition. Runs in a stage that is still there go on under the new one.
 *
 * @throws BatonError INVALID_ARGUMENT, or PIPELINE_IN_USE when open runs are in a status that would be gone or turned
 *   from waiting into work or back
 */
export async function putPipeline(pool: Pool, definition: PipelineDefinition): Promise<Pipeline> {
  const found = new Checks('pipeline.');
  validatePipeline(found, definition);
  found.throwIfAny();
  return pool.transaction(async (tx) => {
    const stranded = await writePipeline(tx, definition);
    if (stranded.length > 0) {
      const list = stranded.map(({ status, runs }) => `${status} (${runs})`).join(', ');
      throw new BatonError(
        'PIPELINE_IN_USE',
        `open runs are in statuses that the new definition lacks, or turns from waiting into work or back: ${list}`,
        {
          metadata: { pipeline: definition.name, statuses: stranded.map(({ status }) => status).join(',') },
        },
      );
    }
    // The database's time, told after the pipeline was locked: every tick that was made of it before is earlier.
    const { now, schedules } = await readScheduleTimes(tx, definition.name);
    await putSchedules(tx, definition.name, planSchedules(definition.schedules, schedules, now));
    const pipeline = await selectPipeline(tx, definition.name);
    if (pipeline === undefined) throw new Error(`pipeline ${definition.name} is not there after it was put`);
    return pipeline;
  });
}

export function pipelineNotFound(name: string): BatonError {
  return new BatonError('PIPELINE_NOT_FOUND', `there is no pipeline ${JSON.stringify(name)}`, {
    metadata: { pipeline: name },
  });
}

export async function getPipeline(pool: Pool, name: string): Promise<Pipeline> {
  const found = new Checks();
  found.name('name', name);
  found.throwIfAny();
  const pipeline = await selectPipeline(pool, name);
  if (pipeline === undefined) throw pipelineNotFound(name);
  return pipeline;
}

function isName(text: string): boolean {
  const found = new Checks();
  found.name('name', text);
  return !found.any;
}

export async function listPipelines(
  pool: Pool,
  request: ListPipelinesRequest,
): Promise<ListPipelinesResponse> {
  const found = new Checks();
  const pageSize = found.pageSize(request.pageSize);
  found.throwIfAny();
  const after = decodePageToken(request.pageToken, ['ListPipelines'], isName)?.key ?? '';
  const page = await selectPipelines(pool, after, pageSize + 1, LIMITS.answerBytes);
  const pipelines = fitItems(page.pipelines.slice(0, pageSize), pipelineBytes, LIMITS.answerBytes);
  const last = page.isCut || pipelines.length < page.pipelines.length ? pipelines.at(-1) : undefined;
  return {
    pipelines,
    nextPageToken: last === undefined ? '' : encodePageToken(last.name, ['ListPipelines']),
  };
}

/** Deletes a pipeline without open runs; the runs that have ended stay. */
export async function deletePipeline(pool: Pool, name: string): Promise<void> {
  const found = new Checks();
  found.name('name', name);
  found.throwIfAny();
  const openRuns = await pool.transaction((tx) => removePipeline(tx, name));
  if (openRuns === undefined) throw pipelineNotFound(name);
  if (openRuns > 0) {
    throw new BatonError(
      'PIPELINE_IN_USE',
      `pipeline ${JSON.stringify(name)} has open runs: cancel or finish them first`,
      {
        metadata: { pipeline: name },
      },
    );
  }
}

/** Stops the claims of a pipeline or of one of its stages, or lets them go on. Creates go on in any case. */
export async function setPaused(pool: Pool, request: PauseRequest, paused: boolean): Promise<Pipeline> {
  const found = new Checks();
  found.name('name', request.name);
  if (request.stage !== '') found.name('stage', request.stage);
  found.throwIfAny();
  const { name, stage } = request;
  return pool.transaction(async (tx) => {
    // A definition that is just being put carries the switches of its stages over: it is waited for, and waits for this.
    if (!(await pausePipeline(tx, name, stage === '' ? paused : undefined))) throw pipelineNotFound(name);
    if (stage !== '' && !(await pauseStage(tx, name, stage, paused)))
      throw unknownStage({ pipeline: name, stage }, true);
    const pipeline = await selectPipeline(tx, name);
    if (pipeline === undefined) throw new Error(`pipeline ${name} is not there though it is locked`);
    return pipeline;
  });
}
