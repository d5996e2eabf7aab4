import { v7 as uuidV7 } from 'uuid';
import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { decodeLeaseToken, type LeaseKey } from '../store/lease_token.js';
import type { Queryable } from '../store/pool.js';
import { updateRuns } from '../store/sql/update_runs.js';
import type { CallContext, UpdateStatusRequest, UpdateStatusResult } from './api.js';
import { explainRefusal, leaseLost, toUpdate, validateUpdate } from './update_status.js';
import { Violations } from './validate.js';

/** Items in rounds of at most one per run: what is reported of one run is applied in the order it was sent. */
function rounds<T extends { readonly request: UpdateStatusRequest }>(items: readonly T[]): T[][] {
  const seen = new Map<string, number>();
  const result: T[][] = [];
  for (const item of items) {
    const round = seen.get(item.request.runId) ?? 0;
    seen.set(item.request.runId, round + 1);
    (result[round] ??= []).push(item);
  }
  return result;
}

interface Item {
  readonly index: number;
  readonly request: UpdateStatusRequest;
  readonly lease: LeaseKey;
}

/** The text of an internal error goes to the log; the caller gets an id to find it by. */
function internalError(log: Logger, error: unknown): BatonError {
  const id = uuidV7();
  log.error({ err: error, error_id: id }, 'internal error in an item of a batch');
  return new BatonError('INTERNAL', `internal error, id ${id}`, { metadata: { error_id: id } });
}

/** One statement for all; when that fails, halves of it, until the guilty item alone fails. */
async function applyRound(
  db: Queryable,
  log: Logger,
  items: readonly Item[],
  results: UpdateStatusResult[],
): Promise<void> {
  try {
    const runs = await updateRuns(
      db,
      items.map(({ request, lease }) => toUpdate(request, lease)),
    );
    for (const [position, { index, request, lease }] of items.entries()) {
      const run = runs[position];
      results[index] = run === undefined ? await explained(db, request, lease) : { run };
    }
  } catch (error) {
    if (error instanceof BatonError || items.length === 1) {
      const shown = error instanceof BatonError ? error : internalError(log, error);
      for (const { index } of items) results[index] = { error: shown };
      return;
    }
    const middle = Math.ceil(items.length / 2);
    await applyRound(db, log, items.slice(0, middle), results);
    await applyRound(db, log, items.slice(middle), results);
  }
}

async function explained(
  db: Queryable,
  request: UpdateStatusRequest,
  lease: LeaseKey,
): Promise<UpdateStatusResult> {
  try {
    return { run: await explainRefusal(db, request, lease) };
  } catch (error) {
    if (error instanceof BatonError) return { error };
    throw error;
  }
}

function refusalOf(request: UpdateStatusRequest, index: number): BatonError | undefined {
  const found = new Violations(`requests[${index}].`);
  validateUpdate(found, request);
  if (request.claimNext !== undefined) found.add('claim_next', 'does not go with a batch');
  return found.any ? found.error() : undefined;
}

/** Many updates at once; each item stands alone, and the answers are in the order of the items. */
export async function batchUpdateStatus(
  db: Queryable,
  log: Logger,
  requests: readonly UpdateStatusRequest[],
  call: CallContext,
): Promise<readonly UpdateStatusResult[]> {
  if (requests.length > LIMITS.batchItems) {
    const found = new Violations();
    found.add('requests', `must have at most ${LIMITS.batchItems} items, has ${requests.length}`);
    found.throwIfAny();
  }
  throwIfAborted(call.signal);
  const results: UpdateStatusResult[] = [];
  const items: Item[] = [];
  requests.forEach((request, index) => {
    const lease = decodeLeaseToken(request.leaseToken);
    const refusal = refusalOf(request, index);
    if (refusal !== undefined) results[index] = { error: refusal };
    else if (lease === undefined) results[index] = { error: leaseLost(request.runId) };
    else items.push({ index, request, lease });
  });
  for (const round of rounds(items)) await applyRound(db, log, round, results);
  return results;
}
