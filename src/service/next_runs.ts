import type { Clock } from '../base/clock.js';
import { LIMITS } from '../base/limits.js';
import type { Queryable } from '../store/pool.js';
import {
  claimRuns,
  FLOOR_OF_ALL,
  type ClaimMark,
  type ClaimMarks,
  type ClaimResult,
  type ClaimSlot,
} from '../store/sql/claim_runs.js';
import type { StageKey } from '../store/sql/find_due_stages.js';

/** At most this often a claim that needs not begins at the floor. */
const SWEEP_MS = 1000;
/** Over rows that VACUUM may not remove a sweep takes long; it has at most this part of the time. */
const SWEEP_SHARE = 1 / 20;

interface StageMarks {
  readonly marks: ClaimMark[];
  sweptAt: number;
  sweepMs: number;
}

/**
 * Claims the next runs of stages without limits from a low-water mark, so that a claim costs the same however many
 * dead rows lie before it.
 *
 * The mark is the last run that this server claimed, and nothing of before it should be waiting. Yet there may be: of
 * a transaction that was committed late, a row that was locked at the time, a run whose priority was changed. So a
 * claim begins at the floor once a second, and when it would come back short; it then leaves the mark at what it
 * found, so that what comes after that is next. What goes back to waiting gets a fresh place by itself.
 */
export class NextRuns {
  readonly #clock: Clock;
  readonly #stages = new Map<string, StageMarks>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** As `claimRuns`, which see. */
  async claim(db: Queryable, key: StageKey, slots: readonly ClaimSlot[]): Promise<ClaimResult> {
    const stage = this.#stageOf(key);
    if (this.#maySweep(stage, SWEEP_MS)) return this.#sweep(db, key, stage, slots);
    const result = await this.#from(db, key, stage, slots, stage.marks);
    const open = slots.map((slot, index) => {
      const left = slot.maxRuns - (result.claims[index]?.length ?? 0);
      return { index, slot: { ...slot, maxRuns: left } };
    });
    const short = open.filter(({ slot }) => slot.maxRuns > 0);
    const isOver = short.length === 0 || !result.stageKnown || result.stageLimited;
    if (isOver || !this.#maySweep(stage, 0)) return result;
    const more = await this.#sweep(
      db,
      key,
      stage,
      short.map(({ slot }) => slot),
    ).catch((error: unknown) => {
      // What was claimed is claimed; a transaction of the caller fails at its next step.
      if (result.last.size === 0) throw error;
      return undefined;
    });
    return more === undefined ? result : merged(result, more, short);
  }

  #stageOf({ pipeline, stage }: StageKey): StageMarks {
    const name = `${pipeline}/${stage}`;
    let marks = this.#stages.get(name);
    if (marks === undefined) {
      // Anybody can ask for stages that do not exist. Those that do are soon known again.
      if (this.#stages.size >= LIMITS.markedStages) this.#stages.clear();
      marks = { marks: [...FLOOR_OF_ALL], sweptAt: Number.NEGATIVE_INFINITY, sweepMs: 0 };
      this.#stages.set(name, marks);
    }
    return marks;
  }

  #maySweep(stage: StageMarks, afterMs: number): boolean {
    return this.#clock.now() - stage.sweptAt >= Math.max(afterMs, stage.sweepMs / SWEEP_SHARE);
  }

  async #sweep(
    db: Queryable,
    key: StageKey,
    stage: StageMarks,
    slots: readonly ClaimSlot[],
  ): Promise<ClaimResult> {
    const startedAt = this.#clock.now();
    // Before it is over, so that claims beside it do not sweep too.
    stage.sweptAt = startedAt;
    const result = await this.#from(db, key, stage, slots, FLOOR_OF_ALL);
    stage.sweptAt = this.#clock.now();
    stage.sweepMs = stage.sweptAt - startedAt;
    return result;
  }

  async #from(
    db: Queryable,
    key: StageKey,
    stage: StageMarks,
    slots: readonly ClaimSlot[],
    marks: ClaimMarks,
  ): Promise<ClaimResult> {
    try {
      const result = await claimRuns(db, { ...key, slots }, marks);
      for (const [priority, mark] of result.last) stage.marks[LIMITS.priorityMax - priority] = mark;
      return result;
    } catch (error) {
      this.forget(key);
      throw error;
    }
  }

  /** Claims of a stage were rolled back: what they had taken waits before the mark again. */
  forget({ pipeline, stage }: StageKey): void {
    this.#stages.delete(`${pipeline}/${stage}`);
  }
}

function merged(
  first: ClaimResult,
  more: ClaimResult,
  places: readonly { readonly index: number }[],
): ClaimResult {
  const claims = [...first.claims];
  places.forEach(({ index }, place) => {
    claims[index] = [...(claims[index] ?? []), ...(more.claims[place] ?? [])];
  });
  return { ...more, claims };
}
