import type { Clock } from '../base/clock.js';
import { BatonError, canceledError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Claim, Run } from '../run/run.js';
import type { Pool } from '../store/pool.js';
import type { ClaimResult, ClaimSlot } from '../store/sql/claim_runs.js';
import { findClaims } from '../store/sql/find_claims.js';
import type { StageKey } from '../store/sql/find_due_stages.js';
import type { NewWork } from '../store/sql/read_new_work.js';
import type { OwnWork } from '../watch/own_work.js';
import {
  comesLater,
  createQueue,
  keepCount,
  keepLeft,
  keyOf,
  knowsOfNothing,
  requestOf,
  takeBatch,
  takeCount,
  type ClaimCall,
  type KnownWork,
  type StageQueue,
  type Waiter,
} from './claim_queue.js';
import type { ClaimAnswers } from './claim_answers.js';
import { claimWithin, unknownStage } from './claim_within_limits.js';
import type { NextRuns } from './next_runs.js';

export interface ClaimsOptions {
  readonly pool: Pool;
  readonly next: NextRuns;
  readonly answers: ClaimAnswers;
  readonly clock: Clock;
  readonly ownWork: OwnWork;
  /** Told when a call begins to wait, so that somebody watches the log for it. */
  readonly onWaiting: () => void;
  /** Told when this server has committed something that only a look at the log can tell. */
  readonly onUntold: () => void;
}

/**
 * All ClaimNext calls of this server, in one queue per stage.
 *
 *   1. A new call looks once, unless it may wait and others are parked: it knows what they know. Calls that come while a
 *      statement runs are served together by the next one, a crowd by two in turns as in `group_commit.ts`.
 *   2. What finds nothing and may wait is parked. Parked calls cost nothing.
 *   3. News of work wakes as many parked calls as there are new runs, first come first served, and no more. A call
 *      that was woken in vain, because another server was quicker, waits at the end again.
 *   4. A statement that came back short of what was asked for means that the stage is empty. One that brought all of it is
 *      followed by another where nobody knows how many there were.
 *   5. Of what this server has committed itself, whoever is parked is told at once, and not again by the log.
 *
 * A call that repeats a request_id is given what it was given before, and waits alone where somebody has locked that.
 * A run that was claimed for a call which has gone away meanwhile, or whose answer did not get out, is handed back.
 */
export class Claims {
  readonly #options: ClaimsOptions;
  readonly #queues = new Map<string, StageQueue>();
  readonly #loops = new Set<Promise<void>>();
  #waiting = 0;
  #stopped = false;

  constructor(options: ClaimsOptions) {
    this.#options = options;
  }

  /** Calls that have not been answered. */
  get waiting(): number {
    return this.#waiting;
  }

  /** The stages that somebody waits for. */
  get stages(): StageKey[] {
    return [...this.#queues.values()].map(({ pipeline, stage }) => ({ pipeline, stage }));
  }

  /**
   * Claims for one worker, waiting up to `waitMs` for work.
   *
   * @returns the claims, possibly none
   * @throws BatonError PIPELINE_NOT_FOUND, STAGE_NOT_FOUND, OVERLOADED, CANCELED, SERVER_STOPPING
   */
  claim(key: StageKey, slot: ClaimSlot, waitMs: number, call: ClaimCall): Promise<readonly Claim[]> {
    const { signal } = call;
    if (signal.aborted) return Promise.reject(canceledError());
    if (this.#stopped) {
      return Promise.reject(
        new BatonError('SERVER_STOPPING', 'this server is stopping', { retryDelayMs: 1000 }),
      );
    }
    if (this.#waiting >= LIMITS.claimWaiters) {
      return Promise.reject(
        new BatonError('OVERLOADED', `${LIMITS.claimWaiters} calls wait for a claim on this server`, {
          retryDelayMs: 1000,
        }),
      );
    }
    return new Promise((resolve, reject) => {
      const queue = this.#queueOf(key);
      const settle = <T>(finish: (value: T) => void) => {
        return (value: T): void => {
          if (!waiter.open) return;
          waiter.open = false;
          waiter.timer?.cancel();
          signal.removeEventListener('abort', onAbort);
          this.#waiting -= 1;
          queue.parked.delete(waiter);
          this.#forgetIfEmpty(queue);
          finish(value);
        };
      };
      const waiter: Waiter = {
        slot,
        call,
        answer: settle(resolve),
        fail: settle(reject),
        open: true,
        patient: waitMs > 0,
        inHand: true,
        timer: undefined,
      };
      const onAbort = (): void => waiter.fail(canceledError());
      signal.addEventListener('abort', onAbort);
      if (waitMs > 0) {
        waiter.timer = this.#options.clock.after(waitMs, () => {
          waiter.patient = false;
          if (!waiter.inHand) waiter.answer([]);
        });
      }
      this.#waiting += 1;
      if (waitMs > 0 && knowsOfNothing(queue, slot)) {
        waiter.inHand = false;
        queue.parked.add(waiter);
        return;
      }
      queue.fresh.add(waiter);
      if (waitMs > 0) this.#options.onWaiting();
      this.#kick(queue);
    });
  }

  /** Takes note of runs that began to wait; undefined means that it is not known where, or how many. */
  announce(work: readonly NewWork[] | undefined): void {
    if (work === undefined) return this.look([...this.#queues.values()]);
    for (const { pipeline, stage, runs, freed } of work) {
      const queue = this.#queues.get(keyOf({ pipeline, stage }));
      if (queue === undefined) continue;
      if (queue.limited) this.#addWork(queue, runs + freed);
      else if (runs > 0) this.#addWork(queue, runs);
    }
  }

  /** Something may be waiting in these stages, nobody knows how much. */
  look(stages: readonly StageKey[]): void {
    for (const key of stages) {
      const queue = this.#queues.get(keyOf(key));
      if (queue === undefined) continue;
      queue.unsure = true;
      this.#addWork(queue, 1);
    }
  }

  /**
   * Takes note of what this server has just committed, so that whoever waits here for one of the runs need not wait for the
   * log to tell.
   */
  committed(runs: readonly Run[]): void {
    const { ownWork, onUntold } = this.#options;
    let untold = false;
    for (const run of runs) {
      const queue = run.state === 'PENDING' && !comesLater(run) ? this.#queues.get(keyOf(run)) : undefined;
      if (queue === undefined) continue;
      // After a failure it waits as long as its stage says, which may be not at all.
      if (run.error === undefined && ownWork.add(run)) this.#addWork(queue, 1);
      else untold = true;
    }
    if (untold || this.#roomIsAwaited()) onUntold();
  }

  /** Whether a run that has left its stage may be what somebody waits for. */
  #roomIsAwaited(): boolean {
    for (const { limited } of this.#queues.values()) if (limited) return true;
    return false;
  }

  #addWork(queue: StageQueue, runs: number): void {
    queue.work += runs;
    this.#kick(queue);
  }

  #queueOf(key: StageKey): StageQueue {
    const name = keyOf(key);
    let queue = this.#queues.get(name);
    if (queue === undefined) {
      queue = createQueue(key);
      this.#queues.set(name, queue);
    }
    return queue;
  }

  #forgetIfEmpty(queue: StageQueue): void {
    const calls = queue.fresh.size + queue.parked.size + queue.alone.size;
    if (calls === 0 && !queue.running) this.#queues.delete(keyOf(queue));
  }

  #kick(queue: StageQueue): void {
    if (queue.running) return;
    queue.running = true;
    // In a turn of its own, so that calls that arrive together share a statement.
    const loop = new Promise<void>((resolve) => setImmediate(resolve)).then(() => this.#run(queue));
    this.#track(loop);
  }

  #track(work: Promise<void>): void {
    this.#loops.add(work);
    void work.finally(() => this.#loops.delete(work));
  }

  async #run(queue: StageQueue): Promise<void> {
    for (let batch = takeBatch(queue, 0); batch.length > 0; batch = takeBatch(queue, batch.length))
      await this.#serve(queue, batch);
    queue.running = false;
    this.#forgetIfEmpty(queue);
  }

  async #serve(queue: StageQueue, batch: readonly Waiter[]): Promise<void> {
    const known = takeCount(queue);
    let others = batch;
    try {
      others = await this.#repeat(queue, batch);
      if (others.length > 0) await this.#serveNew(queue, others, known);
      else keepCount(queue, known, 0);
    } catch (error) {
      // Nothing was claimed, or all of it was released; each call learns of it and may come again.
      for (const waiter of others) waiter.fail(error);
    }
    for (const waiter of others) {
      if (queue.fresh.has(waiter)) continue;
      waiter.inHand = false;
      if (waiter.open) queue.parked.add(waiter);
    }
  }

  /**
   * Answers those who repeat a request_id with the claims that they still hold, so that a lost reply is made good. Where
   * somebody has locked these, the call is set aside.
   *
   * @returns the other calls
   */
  async #repeat(queue: StageQueue, batch: readonly Waiter[]): Promise<readonly Waiter[]> {
    const requests = batch.map((waiter) => requestOf(queue, waiter));
    const held = await findClaims(this.#options.pool, requests, 'skip');
    const others: Waiter[] = [];
    batch.forEach((waiter, index) => {
      const claims = held[index];
      if (claims === undefined) this.#setAside(queue, waiter);
      else if (claims.length > 0) waiter.answer(claims);
      else others.push(waiter);
    });
    return others;
  }

  #setAside(queue: StageQueue, waiter: Waiter): void {
    queue.alone.add(waiter);
    if (queue.alone.size === 1) this.#track(this.#repeatAlone(queue));
  }

  /** Whoever has locked a run may be handing it back: that is waited for, one call after the other. */
  async #repeatAlone(queue: StageQueue): Promise<void> {
    for (const waiter of queue.alone) {
      try {
        const [claims = []] = waiter.open
          ? await findClaims(this.#options.pool, [requestOf(queue, waiter)])
          : [];
        if (claims.length > 0) waiter.answer(claims);
        // Nothing is left of them: it asks for others, as a new call does.
        if (waiter.open) queue.fresh.add(waiter);
      } catch (error) {
        waiter.fail(error);
      }
      queue.alone.delete(waiter);
      this.#kick(queue);
    }
  }

  async #serveNew(queue: StageQueue, batch: readonly Waiter[], known: KnownWork): Promise<void> {
    const slots = batch.map(({ slot }) => slot);
    const result = await this.#claim(queue, slots);
    const asked = slots.reduce((sum, { maxRuns }) => sum + maxRuns, 0);
    const found = result.claims.reduce((sum, claims) => sum + claims.length, 0);
    const claims = await this.#options.answers.complete(result.claims);
    const given = claims.reduce((sum, list) => sum + list.length, 0);
    // What was left, released or failed was not given, so the stage is not empty.
    const isCut = result.left > 0 || given < found;
    if (isCut) keepLeft(queue, known, result.left, given);
    else if (found === asked) keepCount(queue, known, found);
    if (!result.stageKnown) {
      const error = unknownStage(queue, result.pipelineKnown);
      for (const waiter of [...batch, ...queue.parked]) waiter.fail(error);
    }
    batch.forEach((waiter, index) => {
      const own = claims[index] ?? [];
      // Who wants no wait looks again, since there is something.
      if (own.length === 0 && isCut && waiter.open && !waiter.patient) queue.fresh.add(waiter);
      else this.#deliver(waiter, own);
    });
  }

  async #claim(queue: StageQueue, slots: readonly ClaimSlot[]): Promise<ClaimResult> {
    const { pool, next } = this.#options;
    if (!queue.limited) {
      const result = await next.claim(pool, queue, slots);
      queue.limited = result.stageLimited;
      if (!queue.limited) return result;
    }
    const result = await pool.transaction((tx) => claimWithin(tx, queue, slots));
    queue.limited = result.stageLimited;
    return result;
  }

  #deliver(waiter: Waiter, claims: readonly Claim[]): void {
    if (claims.length > 0) {
      if (!waiter.open) return void this.handBack(claims);
      waiter.call.onUndelivered(() => void this.handBack(claims));
      waiter.answer(claims);
    } else if (!waiter.patient || this.#stopped) {
      waiter.answer([]);
    }
  }

  /** Gives runs back whose claim reached nobody; see `ClaimAnswers.release`. */
  handBack(claims: readonly Claim[]): Promise<void> {
    const work = this.#options.answers.release(claims);
    this.#track(work);
    return work;
  }

  /** Answers every waiting call with nothing and waits for the statements that are under way. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const queue of [...this.#queues.values()]) {
      for (const waiter of [...queue.parked]) waiter.answer([]);
    }
    while (this.#loops.size > 0) await Promise.allSettled([...this.#loops]);
  }
}
