import { BatonError } from '../base/errors.js';
import { logInternalError } from '../base/internal_error.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { shortenRuns } from '../run/run_size.js';
import type { CallContext, UpdateStatusRequest, UpdateStatusResult } from './api.js';
import type { GroupCommit, Outcome } from './group_commit.js';
import { toItem, type Updated, type UpdateItem, type UpdateTexts } from './update_group.js';
import { validateUpdate } from './update_status.js';
import { Checks } from './validate.js';

/** The text of an internal error goes to the log; the caller gets an id to find it by. */
function internalError(log: Logger, error: unknown): BatonError {
  const id = logInternalError(log, error, 'internal error in an item of a batch');
  return new BatonError('INTERNAL', `internal error, id ${id}`, { metadata: { error_id: id } });
}

/** @param found with the path of the item */
export function validateItem(found: Checks, request: UpdateStatusRequest): UpdateTexts {
  const texts = validateUpdate(found, request);
  if (request.claimNext !== undefined) found.add('claim_next', 'does not go with a batch');
  return texts;
}

function check(request: UpdateStatusRequest, index: number): UpdateItem | BatonError {
  const found = new Checks(`requests[${index}].`);
  const texts = validateItem(found, request);
  return found.any ? found.error() : toItem(request, texts);
}

/**
 * Many updates at once; each item stands alone, and the answers are in the order of the items. What is reported of one
 * run is applied in the order it was sent. An item that could not even be read comes as its error.
 */
export async function batchUpdateStatus(
  group: GroupCommit<UpdateItem, Updated>,
  log: Logger,
  requests: readonly (UpdateStatusRequest | BatonError)[],
  call: CallContext,
): Promise<readonly UpdateStatusResult[]> {
  const found = new Checks();
  found.items('requests', requests.length);
  found.throwIfAny();
  const checked = requests.map((request, index) =>
    request instanceof BatonError ? request : check(request, index),
  );
  const valid = checked.flatMap((item) => (item instanceof BatonError ? [] : [item]));
  const outcomes = await group.submitAll(valid, call.signal);
  const outcomeOf = new Map(valid.map((item, index) => [item, outcomes[index]]));
  const results = checked.map((item) =>
    item instanceof BatonError ? { error: item } : toResult(outcomeOf.get(item), log),
  );
  return shortenResults(results);
}

function shortenResults(results: readonly UpdateStatusResult[]): readonly UpdateStatusResult[] {
  const runs = results.flatMap((result) => ('run' in result ? [result.run] : []));
  const shortened = shortenRuns(runs, LIMITS.answerBytes).values();
  return results.map((result) => ('run' in result ? { run: shortened.next().value ?? result.run } : result));
}

function toResult(outcome: Outcome<Updated> | undefined, log: Logger): UpdateStatusResult {
  if (outcome !== undefined && 'value' in outcome) return { run: outcome.value.run };
  const error = outcome?.error;
  return { error: error instanceof BatonError ? error : internalError(log, error) };
}
