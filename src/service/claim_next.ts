import { LIMITS } from '../base/limits.js';
import { PIPELINE_DEFAULTS } from '../run/pipeline.js';
import type { Claim } from '../run/run.js';
import type { CallContext, ClaimNextRequest } from './api.js';
import type { ClaimTarget } from './claim_within_limits.js';
import type { Claims } from './claims.js';
import { Checks } from './validate.js';

export function validateClaim(found: Checks, request: ClaimNextRequest): void {
  if (request.pipeline !== '') found.name('pipeline', request.pipeline);
  if (request.stage === '') found.add('stage', 'is required');
  else found.name('stage', request.stage);
  found.text('worker_id', request.workerId, LIMITS.workerIdChars);
  found.integer('max_runs', request.maxRuns, 0, LIMITS.claimRuns);
  found.durationMs('wait', request.waitMs, 0, LIMITS.claimWaitMaxMs);
  if (request.leaseMs !== 0)
    found.durationMs('lease_duration', request.leaseMs, LIMITS.leaseMinMs, LIMITS.leaseMaxMs);
  found.requestId('request_id', request.requestId);
}

/** Where and for whom a request claims, with its defaults filled in. */
export function claimTarget(request: ClaimNextRequest): ClaimTarget {
  const { workerId, leaseMs, requestId } = request;
  return {
    key: {
      pipeline: request.pipeline === '' ? PIPELINE_DEFAULTS.name : request.pipeline,
      stage: request.stage,
    },
    slot: { workerId, leaseMs, requestId, maxRuns: request.maxRuns === 0 ? 1 : request.maxRuns },
  };
}

export async function claimNext(
  claims: Claims,
  request: ClaimNextRequest,
  call: CallContext,
): Promise<readonly Claim[]> {
  const found = new Checks();
  validateClaim(found, request);
  found.throwIfAny();
  const { key, slot } = claimTarget(request);
  return claims.claim(key, slot, request.waitMs, call);
}
