import { BatonError } from '../base/errors.js';
import { endedBy } from '../run/lease_end.js';
import { allowedStatuses, type Pipeline } from '../run/pipeline.js';
import type { Run } from '../run/run.js';
import type { LeaseKey } from '../store/lease_token.js';
import type { Queryable } from '../store/pool.js';
import { findLeaseEnd } from '../store/sql/find_lease_end.js';
import { getPipeline } from '../store/sql/get_pipelines.js';
import { getBareRun } from '../store/sql/get_run.js';
import { isLeaseLive } from '../store/sql/update_runs.js';
import type { UpdateStatusRequest } from './api.js';
import { runNotFound } from './get_run.js';
import { Checks } from './validate.js';

export function leaseLost(runId: string): BatonError {
  return new BatonError('LEASE_LOST', `the lease of run ${runId} is no longer held under this token`, {
    metadata: { run_id: runId },
  });
}

/** @throws BatonError INVALID_ARGUMENT for an error or output that does not go with the reported status */
function checkBelongings(request: UpdateStatusRequest, pipeline: Pipeline, stageName: string): void {
  const found = new Checks();
  const stage = pipeline.stages.find(({ name }) => name === stageName);
  if (request.error !== undefined && request.status !== pipeline.errorStatus) {
    found.add('error', `goes with status ${JSON.stringify(pipeline.errorStatus)} only`);
  }
  if (
    request.output !== undefined &&
    [pipeline.canceledStatus, stage?.waitingStatus].includes(request.status)
  ) {
    found.add('output', `does not go with status ${JSON.stringify(request.status)}`);
  }
  found.throwIfAny();
}

/**
 * The one place where an update that touched no row is explained.
 *
 * @returns the run, when this very update was made before and its reply was lost
 * @throws BatonError RUN_NOT_FOUND, STATUS_NOT_ALLOWED with the statuses that were allowed, INVALID_ARGUMENT, LEASE_LOST
 */
export async function explainRefusal(
  db: Queryable,
  request: UpdateStatusRequest,
  lease: LeaseKey,
): Promise<Run> {
  // The update has waited for whoever was changing the run, so what is read here shows that change.
  const isLive = await isLeaseLive(db, request.runId, lease);
  const run = await getBareRun(db, request.runId);
  if (run === undefined) throw runNotFound(request.runId);
  const pipeline = await getPipeline(db, run.pipeline);
  if (isLive && pipeline !== undefined) {
    const allowed = allowedStatuses(pipeline, run.stage);
    if (allowed.includes(request.status)) {
      checkBelongings(request, pipeline, run.stage);
      throw new BatonError(
        'DATABASE_UNAVAILABLE',
        'the run was changed at the same moment; send the update again',
        {
          retryDelayMs: 100,
        },
      );
    }
    throw new BatonError(
      'STATUS_NOT_ALLOWED',
      `a run in status ${JSON.stringify(run.status)} cannot become ${JSON.stringify(request.status)}; allowed are ${allowed.join(', ')}`,
      { metadata: { run_id: run.id, status: run.status, allowed_statuses: allowed.join(',') } },
    );
  }
  const end = await findLeaseEnd(db, run.id, lease);
  if (end !== undefined && endedBy(end, request, pipeline)) return run;
  throw leaseLost(run.id);
}
