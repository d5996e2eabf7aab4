import { BatonError } from '../base/errors.js';
import type { Claim } from '../run/run.js';
import type { Queryable } from '../store/pool.js';
import { claimRuns, type ClaimResult, type ClaimSlot } from '../store/sql/claim_runs.js';
import type { StageKey } from '../store/sql/find_due_stages.js';
import { findCandidates, lockRoom, type ClaimPlace } from '../store/sql/stage_room.js';

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
  return claimRuns(tx, key.pipeline, key.stage, slots, chosen);
}

/**
 * Claims for one worker inside a transaction of the caller, without waiting.
 *
 * @throws BatonError PIPELINE_NOT_FOUND, STAGE_NOT_FOUND
 */
export async function claimAtOnce(tx: Queryable, key: StageKey, slot: ClaimSlot): Promise<readonly Claim[]> {
  const unlimited = await claimRuns(tx, key.pipeline, key.stage, [slot]);
  if (!unlimited.stageKnown) throw unknownStage(key, unlimited.pipelineKnown);
  const result = unlimited.stageLimited ? await claimWithin(tx, key, [slot]) : unlimited;
  return result.claims[0] ?? [];
}
