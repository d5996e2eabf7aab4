import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { RESERVED_ERROR_CODES } from '../run/lease_end.js';
import type { Claim } from '../run/run.js';
import type { CallContext, ClaimNextRequest, UpdateStatusRequest, UpdateStatusResponse } from './api.js';
import { claimTarget, validateClaim } from './claim_next.js';
import type { Claims } from './claims.js';
import type { GroupCommit } from './group_commit.js';
import { toItem, type Updated, type UpdateItem, type UpdateTexts } from './update_group.js';
import { Checks } from './validate.js';

/** Collects what is wrong with an update by itself; what does not fit the run is found when it is applied. */
export function validateUpdate(found: Checks, request: UpdateStatusRequest): UpdateTexts {
  found.uuid('run_id', request.runId);
  if (request.leaseToken === '') found.add('lease_token', 'is required');
  if (request.status === '') found.add('status', 'is required');
  else found.name('status', request.status);
  const output = found.payload('output', request.output, LIMITS.payloadBytes);
  const checkpoint = found.payload('checkpoint', request.checkpoint, LIMITS.checkpointBytes);
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
  return { output, checkpoint };
}

/** The same with the claim that goes with it. */
export function validateUpdateAndClaim(found: Checks, request: UpdateStatusRequest): UpdateTexts {
  const texts = validateUpdate(found, request);
  if (request.claimNext !== undefined) validateClaim(found.at('claim_next'), request.claimNext);
  return texts;
}

/** Moves a claimed run by the rule that the reported status names, and claims the next one with it if asked to. */
export async function updateStatus(
  group: GroupCommit<UpdateItem, Updated>,
  claims: Claims,
  request: UpdateStatusRequest,
  call: CallContext,
): Promise<UpdateStatusResponse> {
  const found = new Checks();
  const texts = validateUpdateAndClaim(found, request);
  const next = request.claimNext;
  found.throwIfAny();
  const item = toItem(request, texts);
  if (item instanceof BatonError) throw item;
  const { run, claimed, made, isCut } = await group.submit(item, call.signal);
  if (made.length > 0) call.onUndelivered(() => void claims.handBack(made));
  const waits = next !== undefined && claimed.length === 0 && (next.waitMs > 0 || isCut);
  return {
    run,
    cancelRequested: run.cancelRequested,
    claims: waits ? await waitForClaims(claims, next, call) : claimed,
  };
}

/** The update is committed by now, so whatever becomes of the wait, the caller has to hear of the update. */
async function waitForClaims(
  claims: Claims,
  next: ClaimNextRequest,
  call: CallContext,
): Promise<readonly Claim[]> {
  const { key, slot } = claimTarget(next);
  try {
    return await claims.claim(key, slot, next.waitMs, call);
  } catch (error) {
    if (call.signal.aborted || !(error instanceof BatonError)) throw error;
    return [];
  }
}
