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

/** A claim that begins at the floor is not made again before this. */
const SWEEP_MS = 20;
/** Over rows that VACUUM may not remove a sweep takes long; it has at most this part of the time. */
const SWEEP_SHARE = 1 / 20;

interface StageMarks {
  readonly marks: ClaimMark[];
  /** Whether it had limits when it was last claimed from. */
  limited: boolean;
  sweptAt: number;
  sweepMs: number;
}

/**
 * Claims the next runs of stages without limits from a low-water mark, so that a claim costs the same however many
 * dead rows lie before it.
 *
 * The mark is the last run that this server claimed, and nothing of before it should be waiting. Yet there may be: of
 * a transaction that was committed late, a row that was locked at the time, a run whose priority was changed. So a
 * claim begins at the floor as often as that takes no more than a small part of the time: nearly always where little
 * is claimed, and seldom where there is much to walk over. It leaves the mark at what it found, so that what comes
 * after that is next. What goes back to waiting gets a fresh place by itself.
 */
export class NextRuns {
  readonly #clock: Clock;
  readonly #stages = new Map<string, StageMarks>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** As `claimRuns`, which see. */
  claim(db: Queryable, key: StageKey, slots: readonly ClaimSlot[]): Promise<ClaimResult> {
    return this.claimBy(
      key,
      (marks) => claimRuns(db, { ...key, slots }, marks),
      (result) => result,
    );
  }

  /**
   * The same by any statement.
   *
   * @param statement claims the runs that come after the marks
   */
  claimBy<R>(
    key: StageKey,
    statement: (marks: ClaimMarks) => Promise<R>,
    claimedOf: (result: R) => ClaimResult,
  ): Promise<R> {
    const stage = this.#stageOf(key);
    const pauseMs = Math.max(SWEEP_MS, stage.sweepMs / SWEEP_SHARE);
    const from = async (marks: ClaimMarks): Promise<R> => {
      try {
        const result = await statement(marks);
        const { last, stageLimited } = claimedOf(result);
        stage.limited = stageLimited;
        for (const [priority, mark] of last) stage.marks[LIMITS.priorityMax - priority] = mark;
        return result;
      } catch (error) {
        this.forget(key);
        throw error;
      }
    };
    return this.#clock.now() - stage.sweptAt >= pauseMs ? this.#sweep(stage, from) : from(stage.marks);
  }

  /** Whether claims of the stage have to be chosen under its lock, as far as the last one has shown. */
  isLimited({ pipeline, stage }: StageKey): boolean {
    return this.#stages.get(`${pipeline}/${stage}`)?.limited ?? false;
  }

  #stageOf({ pipeline, stage }: StageKey): StageMarks {
    const name = `${pipeline}/${stage}`;
    let marks = this.#stages.get(name);
    if (marks === undefined) {
      // Anybody can ask for stages that do not exist. Those that do are soon known again.
      if (this.#stages.size >= LIMITS.markedStages) this.#stages.clear();
      marks = { marks: [...FLOOR_OF_ALL], limited: false, sweptAt: Number.NEGATIVE_INFINITY, sweepMs: 0 };
      this.#stages.set(name, marks);
    }
    return marks;
  }

  async #sweep<R>(stage: StageMarks, from: (marks: ClaimMarks) => Promise<R>): Promise<R> {
    const startedAt = this.#clock.now();
    // Before it is over, so that claims beside it do not sweep too.
    stage.sweptAt = startedAt;
    const result = await from(FLOOR_OF_ALL);
    stage.sweptAt = this.#clock.now();
    stage.sweepMs = stage.sweptAt - startedAt;
    return result;
  }

  /** Claims of a stage were rolled back: what they had taken waits before the mark again. */
  forget({ pipeline, stage }: StageKey): void {
    this.#stages.delete(`${pipeline}/${stage}`);
  }
}
