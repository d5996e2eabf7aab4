import { BatonError } from '../base/errors.js';
import { isTerminal, TERMINAL_STATES, type Run } from '../run/run.js';
import type { Queryable } from '../store/pool.js';
import { getPipelineNames } from '../store/sql/get_pipelines.js';
import { getBareRun } from '../store/sql/get_run.js';
import { retryRuns as updateRuns } from '../store/sql/retry_runs.js';
import type { CallContext, RetryRunRequest, RetryRunsRequest, RetryRunsResponse } from './api.js';
import { inSteps, validateBulkFilter } from './cancel_runs.js';
import { runNotFound } from './get_run.js';
import { pipelineNotFound } from './pipelines.js';
import { Checks } from './validate.js';

/** Lets a run that has ended wait again, for the named stage or for the one in which it ended. */
export async function retryRun(db: Queryable, request: RetryRunRequest): Promise<Run> {
  const found = new Checks();
  found.uuid('run_id', request.runId);
  if (request.stage !== '') found.name('stage', request.stage);
  found.throwIfAny();
  const [retried] = await updateRuns(db, [request.runId], request.stage);
  if (retried !== undefined) return retried;
  const run = await getBareRun(db, request.runId);
  if (run === undefined) throw runNotFound(request.runId);
  if (!isTerminal(run.state)) {
    throw new BatonError(
      'RUN_NOT_TERMINAL',
      `run ${run.id} has not ended: it is ${JSON.stringify(run.status)}`,
      {
        metadata: { run_id: run.id, status: run.status },
      },
    );
  }
  // It may have ended only after the first look at it.
  const [ended] = await updateRuns(db, [request.runId], request.stage);
  if (ended !== undefined) return ended;
  const [pipeline] = await getPipelineNames(db, [run.pipeline]);
  if (pipeline === undefined) throw pipelineNotFound(run.pipeline);
  const stage =
    request.stage === '' ? 'the stage in which it ended' : `stage ${JSON.stringify(request.stage)}`;
  throw new BatonError(
    'STAGE_NOT_FOUND',
    `pipeline ${JSON.stringify(run.pipeline)} does not have ${stage}; name another one`,
    {
      metadata: { run_id: run.id, pipeline: run.pipeline, stage: request.stage },
    },
  );
}

export function validateRetries(found: Checks, { filter, stage }: RetryRunsRequest): void {
  validateBulkFilter(found, filter);
  if (stage !== '') found.name('stage', stage);
}

/** The same for all runs that match a filter and have ended. Runs that were retried meanwhile do not count. */
export async function retryRuns(
  db: Queryable,
  request: RetryRunsRequest,
  call: CallContext,
): Promise<RetryRunsResponse> {
  const found = new Checks();
  validateRetries(found, request);
  found.throwIfAny();
  let retriedCount = 0;
  const matchedCount = await inSteps(db, request.filter, TERMINAL_STATES, call, async (ids) => {
    retriedCount += (await updateRuns(db, ids, request.stage)).length;
  });
  return { matchedCount, retriedCount };
}
