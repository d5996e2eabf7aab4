import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { allowedStatuses, type Pipeline } from '../run/pipeline.js';
import { endedBy, RESERVED_ERROR_CODES } from '../run/lease_end.js';
import type { Run } from '../run/run.js';
import { decodeLeaseToken, type LeaseKey } from '../store/lease_token.js';
import type { Queryable } from '../store/pool.js';
import { findLeaseEnd } from '../store/sql/find_lease_end.js';
import { getPipeline } from '../store/sql/get_pipelines.js';
import { getRun } from '../store/sql/get_run.js';
import { isLeaseLive, updateRuns, type RunUpdate } from '../store/sql/update_runs.js';
import type { CallContext, UpdateStatusRequest, UpdateStatusResponse } from './api.js';
import { runNotFound } from './get_run.js';
import { Violations } from './validate.js';

function validate(found: Violations, request: UpdateStatusRequest): void {
  found.uuid('run_id', request.runId);
  if (request.leaseToken === '') found.add('lease_token', 'is required');
  if (request.status === '') found.add('status', 'is required');
  else found.name('status', request.status);
  found.payload('output', request.output, LIMITS.payloadBytes);
  found.payload('checkpoint', request.checkpoint, LIMITS.checkpointBytes);
  if (request.progress !== undefined) found.number('progress', request.progress, 0, 1);
  if (request.statusMessage !== undefined)
    found.text('status_message', request.statusMessage, LIMITS.statusMessageChars);
  if (request.error !== undefined) {
    const at = found.at('error');
    at.text('code', request.error.code, LIMITS.errorCodeChars);
    at.text('message', request.error.message, LIMITS.errorMessageChars);
    if (RESERVED_ERROR_CODES.includes(request.error.code)) at.add('code', 'is reserved for the service');
    const { retryDelayMs } = request.error;
    if (retryDelayMs !== undefined) at.durationMs('retry_delay', retryDelayMs, 0, LIMITS.backoffMaxMs);
  }
}

function toUpdate(request: UpdateStatusRequest, lease: LeaseKey): RunUpdate {
  return {
    runId: request.runId,
    lease,
    status: request.status,
    output: request.output,
    errorCode: request.error?.code,
    errorMessage: request.error?.message,
    retryable: request.error?.retryable ?? false,
    retryDelayMs: request.error?.retryDelayMs,
    progress: request.progress,
    statusMessage: request.statusMessage,
    checkpoint: request.checkpoint,
  };
}

function leaseLost(runId: string): BatonError {
  return new BatonError('LEASE_LOST', `the lease of run ${runId} is no longer held under this token`, {
    metadata: { run_id: runId },
  });
}

/** @throws BatonError INVALID_ARGUMENT for an error or output that does not go with the reported status */
function checkBelongings(request: UpdateStatusRequest, pipeline: Pipeline, stageName: string): void {
  const found = new Violations();
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
async function explainRefusal(db: Queryable, request: UpdateStatusRequest, lease: LeaseKey): Promise<Run> {
  const run = await getRun(db, request.runId);
  if (run === undefined) throw runNotFound(request.runId);
  const pipeline = await getPipeline(db, run.pipeline);
  if (pipeline === undefined) throw leaseLost(run.id);
  if (await isLeaseLive(db, run.id, lease)) {
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

/** Moves a claimed run by the rule that the reported status names. */
export async function updateStatus(
  db: Queryable,
  request: UpdateStatusRequest,
  call: CallContext,
): Promise<UpdateStatusResponse> {
  const found = new Violations();
  validate(found, request);
  found.throwIfAny();
  if (request.claimNext !== undefined) {
    throw new BatonError(
      'NOT_IMPLEMENTED',
      'claim_next is not built yet; leave the field out and call ClaimNext',
    );
  }
  const lease = decodeLeaseToken(request.leaseToken);
  if (lease === undefined) throw leaseLost(request.runId);
  throwIfAborted(call.signal);
  const [updated] = await updateRuns(db, [toUpdate(request, lease)]);
  const run = updated ?? (await explainRefusal(db, request, lease));
  return { run, cancelRequested: run.cancelRequested, claims: [] };
}
