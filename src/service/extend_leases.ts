import type { Clock } from '../base/clock.js';
import { LIMITS } from '../base/limits.js';
import { decodeLeaseToken } from '../store/lease_token.js';
import type { Pool, Queryable } from '../store/pool.js';
import {
  extendLeases as updateLeases,
  hasNews,
  type ExtendedLease,
  type Extension,
} from '../store/sql/extend_leases.js';
import type { CallContext, ExtendLeasesRequest, LeaseExtension, LeaseExtensionResult } from './api.js';
import { GroupCommit } from './group_commit.js';
import { Checks } from './validate.js';

/** @returns the checkpoints as JSON text */
export function validateExtension(found: Checks, request: ExtendLeasesRequest): (string | undefined)[] {
  found.items('leases', request.leases.length);
  if (request.leaseMs !== 0)
    found.durationMs('lease_duration', request.leaseMs, LIMITS.leaseMinMs, LIMITS.leaseMaxMs);
  const seen = new Set<string>();
  return request.leases.map((item, index) => {
    const at = found.at(`leases[${index}]`);
    at.uuid('run_id', item.runId);
    if (seen.has(item.runId)) at.add('run_id', 'is there twice');
    seen.add(item.runId);
    if (item.leaseToken === '') at.add('lease_token', 'is required');
    if (item.progress !== undefined) at.number('progress', item.progress, 0, 1);
    if (item.statusMessage !== undefined)
      at.text('status_message', item.statusMessage, LIMITS.statusMessageChars);
    return at.payload('checkpoint', item.checkpoint, LIMITS.checkpointBytes);
  });
}

/** All lease extensions of this server, merged. A lease that is not held any more comes out as undefined. */
export function createExtendGroup(
  pool: Pool,
  clock: Clock,
): GroupCommit<Extension, ExtendedLease | undefined> {
  return new GroupCommit<Extension, ExtendedLease | undefined>({
    name: 'extend_leases',
    limits: LIMITS.groups,
    clock,
    weigh: (item) => item.checkpoint?.length ?? 0,
    keys: (item) => [item.runId],
    async together(items) {
      const extended = await inOne(pool, items, (db) => updateLeases(db, items, 'skip'));
      // One that is missing may only be locked at the moment.
      return extended.map((lease) => lease && { value: lease });
    },
    alone: async (item) => (await updateLeases(pool, [item]))[0],
  });
}

/** Items with and without news take a statement each. */
function inOne<T>(pool: Pool, items: readonly Extension[], work: (db: Queryable) => Promise<T>): Promise<T> {
  return items.some(hasNews) && !items.every(hasNews) ? pool.transaction(work) : work(pool);
}

function resultOf({ runId }: LeaseExtension, lease: ExtendedLease | undefined): LeaseExtensionResult {
  if (lease === undefined) return { runId, outcome: 'LEASE_LOST', leaseExpireTime: undefined };
  return {
    runId,
    outcome: lease.cancelRequested ? 'CANCEL_REQUESTED' : 'OK',
    leaseExpireTime: lease.leaseExpireTime,
  };
}

/**
 * Extends leases; what each item brings of progress, message and checkpoint is kept. Lost leases change nothing. An
 * item that could not be done fails the call, which may be sent again as it is.
 */
export async function extendLeases(
  group: GroupCommit<Extension, ExtendedLease | undefined>,
  request: ExtendLeasesRequest,
  call: CallContext,
): Promise<readonly LeaseExtensionResult[]> {
  const found = new Checks();
  const checkpoints = validateExtension(found, request);
  found.throwIfAny();
  const known = new Map<LeaseExtension, Extension>();
  request.leases.forEach((item, index) => {
    const lease = decodeLeaseToken(item.leaseToken);
    if (lease === undefined) return;
    known.set(item, { ...item, lease, leaseMs: request.leaseMs, checkpoint: checkpoints[index] });
  });
  const outcomes = await group.submitAll([...known.values()], call.signal);
  const leases = new Map(
    [...known.keys()].map((item, index) => {
      const outcome = outcomes[index];
      if (outcome !== undefined && 'error' in outcome) throw outcome.error;
      return [item, outcome?.value];
    }),
  );
  return request.leases.map((item) => resultOf(item, leases.get(item)));
}
