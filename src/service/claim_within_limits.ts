import { BatonError } from '../base/errors.js';
import type { Claim } from '../run/run.js';
import type { Queryable } from '../store/pool.js';
import { claimChosenRuns, type ClaimResult, type ClaimSlot } from '../store/sql/claim_runs.js';
import { findClaims } from '../store/sql/find_claims.js';
import type { StageKey } from '../store/sql/find_due_stages.js';
import { findCandidates, lockRoom, type ClaimPlace } from '../store/sql/stage_room.js';
import type { NextRuns } from './next_runs.js';

export function unknownStage({ pipeline, stage }: StageKey, pipelineKnown: boolean): BatonError {
  return pipelineKnown
    ? new BatonError(
        'STAGE_NOT_FOUND',
        `pipeline ${JSON.stringify(pipeline)} has no stage ${JSON.stringify(stage)}`,
        { metadata: { pipeline, stage } },
      )
    : new BatonError('PIPELINE_NOT_FOUND', `there is no pipeline ${JSON.stringify(pipeline)}`, {
        metadata: { pipeline },
      });
}

/** Candidates that are looked at in one step, and at most, for a claim in a stage with limits. */
const CANDIDATES_STEP = 500;
const CANDIDATES_MAX = 20_000;

/**
 * Claims in a stage with limits, inside a transaction of the caller. One claim at a time in the whole cluster chooses
 * from the runs in claim order what the limits leave room for; what a key has no room for is passed over. Among more
 * than `CANDIDATES_MAX` runs of keys that are full, those behind wait until one of the keys gets room.
 */
export async function claimWithin(
  tx: Queryable,
  key: StageKey,
  slots: readonly ClaimSlot[],
): Promise<ClaimResult> {
  const room = await lockRoom(tx, key);
  const wanted = slots.reduce((sum, slot) => sum + slot.maxRuns, 0);
  const chosen: string[] = [];
  let place: ClaimPlace | undefined;
  for (let seen = 0; seen < CANDIDATES_MAX && chosen.length < wanted && !room.isFull;) {
    const { candidates, last } = await findCandidates(tx, key, place, CANDIDATES_STEP);
    chosen.push(...room.take(candidates, wanted - chosen.length));
    if (candidates.length < CANDIDATES_STEP) break;
    seen += candidates.length;
    place = last;
  }
  return claimChosenRuns(tx, { ...key, slots }, chosen);
}

/** Where and for whom a ClaimNext claims. */
export interface ClaimTarget {
  readonly key: StageKey;
  readonly slot: ClaimSlot;
}

/** What one worker was given. */
export interface ClaimedAtOnce {
  /** Possibly none. */
  readonly claims: readonly Claim[];
  /** They were made before under the same request_id and are still held. */
  readonly repeated: boolean;
  /** Runs that could be claimed were left, because they would not fit the answers. */
  readonly isCut: boolean;
}

/**
 * Claims for several workers inside a transaction of the caller, without waiting for runs. Who repeats a request_id
 * gets the claims that it still holds. Stages are taken in the order of their names, since those with limits are locked.
 *
 * @throws BatonError PIPELINE_NOT_FOUND, STAGE_NOT_FOUND
 */
export async function claimAtOnce(
  tx: Queryable,
  next: NextRuns,
  targets: readonly ClaimTarget[],
): Promise<readonly ClaimedAtOnce[]> {
  const held = await findClaims(
    tx,
    targets.map(({ key, slot }) => ({ ...key, workerId: slot.workerId, requestId: slot.requestId ?? '' })),
  );
  const results: ClaimedAtOnce[] = held.map((claims = []) => ({
    claims,
    repeated: claims.length > 0,
    isCut: false,
  }));
  const stages = new Map<string, { readonly index: number; readonly target: ClaimTarget }[]>();
  targets.forEach((target, index) => {
    if (results[index]?.repeated === true) return;
    const name = `${target.key.pipeline}/${target.key.stage}`;
    stages.set(name, [...(stages.get(name) ?? []), { index, target }]);
  });
  for (const [, members] of [...stages].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const key = members[0]?.target.key;
    if (key === undefined) continue;
    const slots = members.map(({ target }) => target.slot);
    const unlimited = await next.claim(tx, key, slots);
    if (!unlimited.stageKnown) throw unknownStage(key, unlimited.pipelineKnown);
    const { claims, left } = unlimited.stageLimited ? await claimWithin(tx, key, slots) : unlimited;
    members.forEach(({ index }, place) => {
      results[index] = { claims: claims[place] ?? [], repeated: false, isCut: left > 0 };
    });
  }
  return results;
}
