import type { Clock } from '../base/clock.js';
import type { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Claim, Run } from '../run/run.js';
import { decodeLeaseToken } from '../store/lease_token.js';
import type { Pool, Queryable } from '../store/pool.js';
import { updateAndClaim } from '../store/sql/update_and_claim.js';
import { updateRuns, type RunUpdate } from '../store/sql/update_runs.js';
import { isContention, wasRolledBack } from '../store/violation.js';
import type { UpdateStatusRequest } from './api.js';
import { claimTarget } from './claim_next.js';
import { claimAtOnce, type ClaimedAtOnce, type ClaimTarget } from './claim_within_limits.js';
import { keyOf } from './claim_queue.js';
import type { ClaimAnswers } from './claim_answers.js';
import type { Claims } from './claims.js';
import { explainRefusal, leaseLost } from './explain_refusal.js';
import { GroupCommit, type Outcome } from './group_commit.js';
import type { NextRuns } from './next_runs.js';

/** One update that is valid in itself, with what its worker wants to claim in the same transaction. */
export interface UpdateItem {
  readonly request: UpdateStatusRequest;
  readonly update: RunUpdate;
  readonly next: ClaimTarget | undefined;
}

export interface Updated {
  /** As it is after the update, or after the first time this same update was made. */
  readonly run: Run;
  readonly claimed: readonly Claim[];
  /** Those of them that were made with the update, and not given again to its repeat: released where nobody gets them. */
  readonly made: readonly Claim[];
  /** There was more to claim, which did not fit or could not be given. */
  readonly isCut: boolean;
}

/** The JSON texts that the check of a request has made of its payloads. */
export interface UpdateTexts {
  readonly output: string | undefined;
  readonly checkpoint: string | undefined;
}

/** @returns LEASE_LOST for a token that this service never gave to anybody */
export function toItem(request: UpdateStatusRequest, texts: UpdateTexts): UpdateItem | BatonError {
  const lease = decodeLeaseToken(request.leaseToken);
  if (lease === undefined) return leaseLost(request.runId);
  const update: RunUpdate = {
    runId: request.runId,
    lease,
    status: request.status,
    output: texts.output,
    errorCode: request.error?.code,
    errorMessage: request.error?.message,
    retryable: request.error?.retryable ?? false,
    retryDelayMs: request.error?.retryDelayMs,
    progress: request.progress,
    statusMessage: request.statusMessage,
    checkpoint: texts.checkpoint,
  };
  return {
    request,
    update,
    next: request.claimNext === undefined ? undefined : claimTarget(request.claimNext),
  };
}

/** All updates of this server, merged: UpdateStatus with and without claim_next, and the items of BatchUpdateStatus. */
export function createUpdateGroup(options: Parts & UpdateGroupOptions): GroupCommit<UpdateItem, Updated> {
  const { pool, claims, next, answers, clock } = options;
  const parts: Parts = options;
  return new GroupCommit<UpdateItem, Updated>({
    name: 'update_status',
    limits: LIMITS.groups,
    clock,
    weigh: ({ update }) => (update.output?.length ?? 0) + (update.checkpoint?.length ?? 0),
    keys: keysOf,
    together: async (items) => {
      const outcomes = await inParts(parts, items);
      claims.committed(
        outcomes.flatMap((outcome) =>
          outcome !== undefined && 'value' in outcome ? [outcome.value.run] : [],
        ),
      );
      return withAnswers(answers, outcomes);
    },
    alone: async (item) => {
      const updated = await inOne(pool, next, [item], (db) => updateAlone(db, parts, item));
      claims.committed([updated.run]);
      const [answer = updated] = await completed(answers, [updated]);
      return answer;
    },
    onDropped: ({ made }) => {
      if (made.length > 0) void claims.handBack(made);
    },
  });
}

interface Parts {
  readonly pool: Pool;
  readonly next: NextRuns;
}

interface UpdateGroupOptions {
  readonly claims: Claims;
  readonly answers: ClaimAnswers;
  readonly clock: Clock;
}

/** Completes the claims of updates that are committed. Where that fails, all of these are released. */
async function completed(answers: ClaimAnswers, updates: readonly Updated[]): Promise<readonly Updated[]> {
  if (updates.every(({ made }) => made.length === 0)) return updates;
  const none: readonly Claim[][] = updates.map(() => []);
  const fitting = await answers.complete(updates.map(({ made }) => made)).catch(() => none);
  return updates.map((updated, index) => {
    const { run, made } = updated;
    if (made.length === 0) return updated;
    const claims = fitting[index] ?? [];
    return { run, claimed: claims, made: claims, isCut: updated.isCut || claims.length < made.length };
  });
}

async function withAnswers(answers: ClaimAnswers, outcomes: Outcomes): Promise<Outcomes> {
  const updates = outcomes.flatMap((outcome) =>
    outcome !== undefined && 'value' in outcome ? [outcome.value] : [],
  );
  const values = (await completed(answers, updates)).values();
  return outcomes.map((outcome) => {
    const value = outcome !== undefined && 'value' in outcome ? values.next().value : undefined;
    return value === undefined ? outcome : { value };
  });
}

type Outcomes = (Outcome<Updated> | undefined)[];

/** Two claims under one request_id have to see each other's runs. */
function keysOf({ update, next }: UpdateItem): string[] {
  const requestId = next?.slot.requestId ?? '';
  return requestId === '' ? [update.runId] : [update.runId, `claim ${requestId}`];
}

/** In a transaction where there is something to claim as well; a statement alone is one by itself. */
async function inOne<T>(
  pool: Pool,
  next: NextRuns,
  items: readonly UpdateItem[],
  work: (db: Queryable) => Promise<T>,
): Promise<T> {
  const targets = items.flatMap((item) => item.next ?? []);
  if (targets.length === 0) return work(pool);
  try {
    return await pool.transaction(work);
  } catch (error) {
    for (const { key } of targets) next.forget(key);
    throw error;
  }
}

/**
 * Each stage that is claimed from makes a part, which is a statement or a transaction by itself, so that no worker waits for
 * those of another stage. What claims nothing goes with any of them.
 */
async function inParts(parts: Parts, items: readonly UpdateItem[]): Promise<Outcomes> {
  const stages = new Map<string, UpdateItem[]>();
  const others: UpdateItem[] = [];
  for (const item of items) {
    if (item.next === undefined) {
      others.push(item);
      continue;
    }
    const name = keyOf(item.next.key);
    const members = stages.get(name);
    if (members === undefined) stages.set(name, [item]);
    else members.push(item);
  }
  const [first] = stages.values();
  if (first === undefined) return updateTogether(parts.pool, parts, items);
  first.push(...others);
  if (stages.size === 1) return inOrder(items, first, await updateAndClaimTogether(parts, first));
  const groups = [...stages.values()];
  const done = await Promise.allSettled(groups.map((members) => updateAndClaimTogether(parts, members)));
  return inOrder(
    items,
    groups.flat(),
    done.flatMap((part, index) =>
      part.status === 'fulfilled' ? part.value : (groups[index] ?? []).map(() => outcomeOf(part.reason)),
    ),
  );
}

/** What failed and was rolled back is tried again by itself; of a lost connection nobody knows what it has done. */
function outcomeOf(error: unknown): Outcome<Updated> | undefined {
  return isContention(error) || wasRolledBack(error) ? undefined : { error };
}

function inOrder(
  items: readonly UpdateItem[],
  members: readonly UpdateItem[],
  outcomes: readonly (Outcome<Updated> | undefined)[],
): Outcomes {
  const outcomeOfItem = new Map(members.map((item, index) => [item, outcomes[index]]));
  return items.map((item) => outcomeOfItem.get(item));
}

/** Items of which those that claim want runs of the same stage; what one statement cannot do is done in a transaction. */
async function updateAndClaimTogether(parts: Parts, items: readonly UpdateItem[]): Promise<Outcomes> {
  const { pool, next } = parts;
  const key = items[0]?.next?.key;
  if (key === undefined || next.isLimited(key)) return inTransaction(parts, items);
  const wanted = items.map(({ update, next: target }) => ({ update, slot: target?.slot }));
  const { runs, putOff, claimed } = await next.claimBy(
    key,
    (marks) => updateAndClaim(pool, key, wanted, marks),
    (result) => result.claimed,
  );
  const outcomes: Outcomes = items.map((_, index) => {
    const run = runs[index];
    const given = { claims: claimed.claims[index] ?? [], repeated: false, isCut: claimed.left > 0 };
    return run === undefined ? undefined : { value: toUpdated(run, given) };
  });
  if (putOff.size === 0) return outcomes;
  const rest = items.filter((_, index) => putOff.has(index));
  // The others have their outcome, whatever becomes of these.
  const late = await inTransaction(parts, rest).catch((error: unknown) => rest.map(() => outcomeOf(error)));
  const afterwards = inOrder(items, rest, late);
  return outcomes.map((outcome, index) => (putOff.has(index) ? afterwards[index] : outcome));
}

function inTransaction(parts: Parts, items: readonly UpdateItem[]): Promise<Outcomes> {
  return inOne(parts.pool, parts.next, items, (db) => updateTogether(db, parts, items));
}

/** A refused update is left undefined: it may only have met a lock, or it is the repeat of one that was made. */
async function updateTogether(
  db: Queryable,
  parts: Parts,
  items: readonly UpdateItem[],
): Promise<(Outcome<Updated> | undefined)[]> {
  const runs = await updateRuns(
    db,
    items.map(({ update }) => update),
    'skip',
  );
  const targets = new Map<UpdateItem, ClaimTarget>();
  items.forEach((item, index) => {
    if (runs[index] !== undefined && item.next !== undefined) targets.set(item, item.next);
  });
  const results = targets.size === 0 ? [] : await claimAtOnce(db, parts.next, [...targets.values()]);
  const resultOf = new Map([...targets.keys()].map((item, index) => [item, results[index]]));
  return items.map((item, index) => {
    const run = runs[index];
    return run === undefined ? undefined : { value: toUpdated(run, resultOf.get(item)) };
  });
}

async function updateAlone(
  db: Queryable,
  parts: Parts,
  { request, update, next }: UpdateItem,
): Promise<Updated> {
  const [updated] = await updateRuns(db, [update]);
  const run = updated ?? (await explainRefusal(db, request, update.lease));
  const [result] = next === undefined ? [] : await claimAtOnce(db, parts.next, [next]);
  return toUpdated(run, result);
}

function toUpdated(run: Run, result: ClaimedAtOnce | undefined): Updated {
  const made = result === undefined || result.repeated ? [] : result.claims;
  return { run, claimed: result?.claims ?? [], made, isCut: result?.isCut ?? false };
}
