import type { Timer } from '../base/clock.js';
import { LIMITS } from '../base/limits.js';
import type { Claim, Run } from '../run/run.js';
import type { ClaimSlot } from '../store/sql/claim_runs.js';
import type { ClaimRequestKey } from '../store/sql/find_claims.js';
import type { StageKey } from '../store/sql/find_due_stages.js';
import type { CallContext } from './api.js';
import { partOf } from './group_commit.js';

/** What the claims need to know of a call. */
export type ClaimCall = Pick<CallContext, 'signal' | 'onUndelivered'>;

/** One ClaimNext call that has not been answered yet. */
export interface Waiter {
  readonly slot: ClaimSlot;
  readonly call: ClaimCall;
  readonly answer: (claims: readonly Claim[]) => void;
  readonly fail: (error: unknown) => void;
  /** False once the call was answered, has failed, or has gone away. */
  open: boolean;
  /** Whether the call wants to wait when there is nothing. */
  patient: boolean;
  /** Whether a statement has the call in hand, or will have it next; that statement answers it then. */
  inHand: boolean;
  timer: Timer | undefined;
}

/** All calls for one stage. */
export interface StageQueue extends StageKey {
  /** Calls that have not looked yet. */
  readonly fresh: Set<Waiter>;
  /** Calls that found nothing, in the order in which they are woken. */
  readonly parked: Set<Waiter>;
  /** Calls that are repeated while somebody has locked what they were given. */
  readonly alone: Set<Waiter>;
  /** Runs that are known to wait and have not been looked for yet. */
  work: number;
  /** There may be more than that. */
  unsure: boolean;
  running: boolean;
  /** The stage has limits: claims are chosen under its lock, and a run that leaves it makes room for another. */
  limited: boolean;
}

export function createQueue({ pipeline, stage }: StageKey): StageQueue {
  return {
    ...{ pipeline, stage },
    ...{ fresh: new Set(), parked: new Set(), alone: new Set() },
    ...{ work: 0, unsure: false, running: false, limited: false },
  };
}

export function keyOf({ pipeline, stage }: StageKey): string {
  return `${pipeline}/${stage}`;
}

export function requestOf({ pipeline, stage }: StageQueue, { slot }: Waiter): ClaimRequestKey {
  return { pipeline, stage, workerId: slot.workerId, requestId: slot.requestId ?? '' };
}

/**
 * Whether a call that may wait need not look: others wait already, so the stage was empty when they looked, and all that
 * came since would have been announced. Who repeats a request_id has to look for what it was given.
 */
export function knowsOfNothing(queue: StageQueue, slot: ClaimSlot): boolean {
  return queue.parked.size > 0 && queue.work === 0 && (slot.requestId ?? '') === '';
}

/**
 * The calls that the next statement serves: parked ones while there is work for them, then new ones, a crowd in parts.
 *
 * @param answered how many the last statement has served, if this one follows on it
 */
export function takeBatch(queue: StageQueue, answered: number): Waiter[] {
  const batch: Waiter[] = [];
  let runs = 0;
  const repeatable = new Set<string>();
  const take = (from: Set<Waiter>, limit: number, calls = Number.POSITIVE_INFINITY): void => {
    for (const waiter of from) {
      if (
        runs >= limit ||
        batch.length >= calls ||
        (batch.length > 0 && runs + waiter.slot.maxRuns > LIMITS.claimRuns)
      )
        return;
      if (!waiter.open) {
        from.delete(waiter);
        continue;
      }
      // The same request twice: the second must see what the first one gets.
      const { requestId = '', workerId } = waiter.slot;
      const key = `${requestId} ${workerId}`;
      if (requestId !== '' && repeatable.has(key)) continue;
      repeatable.add(key);
      from.delete(waiter);
      waiter.inHand = true;
      runs += waiter.slot.maxRuns;
      batch.push(waiter);
    }
  };
  take(queue.parked, queue.work);
  const known = batch.length;
  take(
    queue.fresh,
    Number.POSITIVE_INFINITY,
    known + partOf(queue.fresh.size, answered, LIMITS.groups.partItems),
  );
  // Nobody has kept count of what came while nobody waited.
  if (batch.length > known) queue.unsure = true;
  // Nobody is left who could use it.
  if (batch.length === 0) queue.work = 0;
  return batch;
}

/** What was known of a stage before a statement looked. */
export type KnownWork = Pick<StageQueue, 'work' | 'unsure'>;

/** Begins to count anew: what comes while a statement looks is not what it looks for. */
export function takeCount(queue: StageQueue): KnownWork {
  const { work, unsure } = queue;
  queue.work = 0;
  queue.unsure = false;
  return { work, unsure };
}

/** What is left after `found` runs were all that was asked for. */
export function keepCount(queue: StageQueue, { work, unsure }: KnownWork, found: number): void {
  // With limits, what could not be had for want of room is not counted any more.
  const mayBeMore = unsure || found > work || queue.limited;
  queue.unsure ||= mayBeMore;
  queue.work += Math.max(work - found, mayBeMore ? 1 : 0);
}

/** What is left where there was more than the answers could hold: `left` runs at least, of which none was looked at. */
export function keepLeft(queue: StageQueue, known: KnownWork, left: number, given: number): void {
  keepCount(queue, { work: Math.max(known.work, left + given), unsure: true }, given);
}

/** By the database's clock alone: housekeeping sees to it when it comes due. */
export function comesLater({ scheduleTime, updateTime }: Run): boolean {
  return scheduleTime !== undefined && scheduleTime > updateTime;
}
