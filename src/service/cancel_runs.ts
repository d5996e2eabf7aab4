import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { RunFilter } from '../run/filter.js';
import { isTerminal, type Run, type RunState } from '../run/run.js';
import type { Queryable } from '../store/pool.js';
import { cancelRuns as updateRuns } from '../store/sql/cancel_runs.js';
import { findRuns } from '../store/sql/find_runs.js';
import { getBareRun } from '../store/sql/get_run.js';
import type { BulkRequest, CallContext, CancelRunRequest, CancelRunsResponse } from './api.js';
import { runNotFound } from './get_run.js';
import { Checks } from './validate.js';

/** Cancels a run that waits; asks the worker of one that is at work to stop. Repeating it changes nothing. */
export async function cancelRun(db: Queryable, request: CancelRunRequest): Promise<Run> {
  const found = new Checks();
  found.uuid('run_id', request.runId);
  found.text('reason', request.reason, LIMITS.cancelReasonChars);
  found.throwIfAny();
  const [changed] = await updateRuns(db, [request.runId], request.reason);
  const run = changed ?? (await getBareRun(db, request.runId));
  if (run === undefined) throw runNotFound(request.runId);
  if (!isTerminal(run.state) && !run.cancelRequested) {
    // It had ended when the statement looked for it, and somebody has retried it since.
    throw new BatonError(
      'DATABASE_UNAVAILABLE',
      'the run was changed at the same moment; send the call again',
      {
        retryDelayMs: 100,
      },
    );
  }
  if (run.state === 'SUCCEEDED' || run.state === 'FAILED') {
    throw new BatonError('RUN_TERMINAL', `run ${run.id} has ended in ${JSON.stringify(run.status)} already`, {
      metadata: { run_id: run.id, status: run.status },
    });
  }
  return run;
}

/** A change to every run there is has to be asked for by a filter that says so. */
export function validateBulkFilter(found: Checks, filter: RunFilter): void {
  found.filter('filter', filter);
  const lists = [filter.runIds, filter.pipelines, filter.stages, filter.statuses, filter.states];
  const empty =
    lists.every((list) => list.length === 0) &&
    filter.repository === '' &&
    Object.keys(filter.labels).length === 0;
  if (empty) found.add('filter', 'must not be empty');
}

export function validateCancels(found: Checks, { filter, reason }: BulkRequest): void {
  validateBulkFilter(found, filter);
  found.text('reason', reason, LIMITS.cancelReasonChars);
}

/** Goes through the matching runs in steps of one short transaction each, until it is through or the caller is gone. */
export async function inSteps(
  db: Queryable,
  filter: RunFilter,
  states: readonly RunState[],
  call: CallContext,
  step: (ids: readonly string[]) => Promise<void>,
): Promise<number> {
  let matched = 0;
  let after: string | undefined;
  for (;;) {
    throwIfAborted(call.signal);
    const ids = await findRuns(db, filter, states, after, LIMITS.bulkStep);
    if (ids.length === 0) return matched;
    matched += ids.length;
    after = ids.at(-1);
    await step(ids);
  }
}

/** The same for all runs that match a filter and have not ended. */
export async function cancelRuns(
  db: Queryable,
  request: BulkRequest,
  call: CallContext,
): Promise<CancelRunsResponse> {
  const found = new Checks();
  validateCancels(found, request);
  found.throwIfAny();
  let canceledCount = 0;
  let cancelRequestedCount = 0;
  const matchedCount = await inSteps(db, request.filter, ['PENDING', 'ACTIVE'], call, async (ids) => {
    for (const run of await updateRuns(db, ids, request.reason)) {
      if (run.state === 'CANCELED') canceledCount += 1;
      else cancelRequestedCount += 1;
    }
  });
  return { matchedCount, canceledCount, cancelRequestedCount };
}
