import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { allowedStatuses, type Pipeline } from '../run/pipeline.js';
import { endedBy, RESERVED_ERROR_CODES } from '../run/lease_end.js';
import type { Claim, Run } from '../run/run.js';
import { decodeLeaseToken, type LeaseKey } from '../store/lease_token.js';
import type { Pool, Queryable } from '../store/pool.js';
import { findLeaseEnd } from '../store/sql/find_lease_end.js';
import { getPipeline } from '../store/sql/get_pipelines.js';
import { getRun } from '../store/sql/get_run.js';
import { isLeaseLive, updateRuns, type RunUpdate } from '../store/sql/update_runs.js';
import type { CallContext, ClaimNextRequest, UpdateStatusRequest, UpdateStatusResponse } from './api.js';
import { claimTarget, rememberedClaims, validateClaim } from './claim_next.js';
import { claimAtOnce } from './claim_within_limits.js';
import type { Claims } from './claims.js';
import { runNotFound } from './get_run.js';
import { Violations } from './validate.js';

/** Collects what is wrong with an update by itself; what does not fit the run is found when it is applied. */
export function validateUpdate(found: Violations, request: UpdateStatusRequest): void {
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

export function toUpdate(request: UpdateStatusRequest, lease: LeaseKey): RunUpdate {
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

export function leaseLost(runId: string): BatonError {
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
export async function explainRefusal(
  db: Queryable,
  request: UpdateStatusRequest,
  lease: LeaseKey,
): Promise<Run> {
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

/** @returns the run as it is after the update, or after the first time this same update was made */
async function apply(db: Queryable, request: UpdateStatusRequest): Promise<Run> {
  const lease = decodeLeaseToken(request.leaseToken);
  if (lease === undefined) throw leaseLost(request.runId);
  const [updated] = await updateRuns(db, [toUpdate(request, lease)]);
  return updated ?? (await explainRefusal(db, request, lease));
}

/** Moves a claimed run by the rule that the reported status names, and claims the next one with it if asked to. */
export async function updateStatus(
  pool: Pool,
  claims: Claims,
  request: UpdateStatusRequest,
  call: CallContext,
): Promise<UpdateStatusResponse> {
  const found = new Violations();
  validateUpdate(found, request);
  const next = request.claimNext;
  if (next !== undefined) validateClaim(found.at('claim_next'), next);
  found.throwIfAny();
  throwIfAborted(call.signal);
  if (next === undefined) {
    const run = await apply(pool, request);
    return { run, cancelRequested: run.cancelRequested, claims: [] };
  }
  const { key, slot } = claimTarget(next);
  const { run, claimed } = await pool.transaction(async (tx) => ({
    run: await apply(tx, request),
    claimed: await orElse(await rememberedClaims(tx, next), () => claimAtOnce(tx, key, slot)),
  }));
  // The claims would reach nobody now.
  if (call.signal.aborted && claimed.length > 0) await claims.handBack(claimed);
  throwIfAborted(call.signal);
  const waits = claimed.length === 0 && next.waitMs > 0;
  return {
    run,
    cancelRequested: run.cancelRequested,
    claims: waits ? await waitForClaims(claims, next, call) : claimed,
  };
}

async function orElse(
  remembered: readonly Claim[],
  claim: () => Promise<readonly Claim[]>,
): Promise<readonly Claim[]> {
  return remembered.length > 0 ? remembered : claim();
}

/** The update is committed by now, so whatever becomes of the wait, the caller has to hear of the update. */
async function waitForClaims(
  claims: Claims,
  next: ClaimNextRequest,
  call: CallContext,
): Promise<readonly Claim[]> {
  const { key, slot } = claimTarget(next);
  try {
    return await claims.claim(key, slot, next.waitMs, call.signal);
  } catch (error) {
    if (call.signal.aborted || !(error instanceof BatonError)) throw error;
    return [];
  }
}
