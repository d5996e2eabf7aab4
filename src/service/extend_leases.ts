import { throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { decodeLeaseToken } from '../store/lease_token.js';
import type { Queryable } from '../store/pool.js';
import {
  extendLeases as updateLeases,
  type ExtendedLease,
  type Extension,
} from '../store/sql/extend_leases.js';
import type { CallContext, ExtendLeasesRequest, LeaseExtension, LeaseExtensionResult } from './api.js';
import { Violations } from './validate.js';

function validate(request: ExtendLeasesRequest): void {
  const found = new Violations();
  if (request.leases.length > LIMITS.batchItems) {
    found.add('leases', `must have at most ${LIMITS.batchItems} items, has ${request.leases.length}`);
    found.throwIfAny();
  }
  if (request.leaseMs !== 0)
    found.durationMs('lease_duration', request.leaseMs, LIMITS.leaseMinMs, LIMITS.leaseMaxMs);
  const seen = new Set<string>();
  request.leases.forEach((item, index) => {
    const at = found.at(`leases[${index}]`);
    at.uuid('run_id', item.runId);
    if (seen.has(item.runId)) at.add('run_id', 'is there twice');
    seen.add(item.runId);
    if (item.leaseToken === '') at.add('lease_token', 'is required');
    if (item.progress !== undefined) at.number('progress', item.progress, 0, 1);
    if (item.statusMessage !== undefined)
      at.text('status_message', item.statusMessage, LIMITS.statusMessageChars);
    at.payload('checkpoint', item.checkpoint, LIMITS.checkpointBytes);
  });
  found.throwIfAny();
}

function resultOf({ runId }: LeaseExtension, lease: ExtendedLease | undefined): LeaseExtensionResult {
  if (lease === undefined) return { runId, outcome: 'LEASE_LOST', leaseExpireTime: undefined };
  return {
    runId,
    outcome: lease.cancelRequested ? 'CANCEL_REQUESTED' : 'OK',
    leaseExpireTime: lease.leaseExpireTime,
  };
}

/** Extends leases; what each item brings of progress, message and checkpoint is kept. Lost leases change nothing. */
export async function extendLeases(
  db: Queryable,
  request: ExtendLeasesRequest,
  call: CallContext,
): Promise<readonly LeaseExtensionResult[]> {
  validate(request);
  throwIfAborted(call.signal);
  const known: { readonly item: LeaseExtension; readonly extension: Extension }[] = [];
  for (const item of request.leases) {
    const lease = decodeLeaseToken(item.leaseToken);
    if (lease !== undefined) known.push({ item, extension: { ...item, lease, leaseMs: request.leaseMs } });
  }
  const extended = await updateLeases(
    db,
    known.map(({ extension }) => extension),
  );
  const byItem = new Map(known.map(({ item }, index) => [item, extended[index]]));
  return request.leases.map((item) => resultOf(item, byItem.get(item)));
}
