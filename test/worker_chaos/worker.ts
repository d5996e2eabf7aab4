import { setTimeout as pause } from 'node:timers/promises';
import { LeaseOutcome, type Claim, type LeaseExtensionResult } from '../../gen/baton/v1/job_service_pb.js';
import type { Prng } from '../support/log_prng.js';
import {
  heldOf,
  UNKNOWN,
  type Books,
  type ClaimIntent,
  type ExtendIntent,
  type Held,
  type Send,
  type UpdateIntent,
} from './books.js';
import type { Caller } from './caller.js';
import { WORKPLACES, type Workplace } from './pipelines.js';
import { claimRequest, endReport, reasonOfItem, report, type Report } from './reports.js';

export interface WorkerContext {
  readonly name: string;
  readonly caller: Caller;
  readonly books: Books;
  readonly random: Prng;
  readonly signal: AbortSignal;
  /** From now on nobody breaks anything: the worker does what is there, as well as it can. */
  readonly isCalm: () => boolean;
}

/** What workers do to themselves. */
export const WORKER_FAULTS = [
  'killed',
  'paused beyond the lease',
  'cut off',
  'connection reset',
  'stale token used',
] as const;

const LEASES_MS = [1500, 2500, 4000] as const;
const WAITS_MS = [0, 400, 1500] as const;
const KEPT_TOKENS = 30;

/** One worker that does a little of everything, breaks itself, and writes down what it asked and was told. */
export class Worker {
  readonly #context: WorkerContext;
  /** Tokens that were given up, or whose lease is over. */
  readonly #stale: Held[] = [];
  readonly #queue: Held[] = [];

  constructor(context: WorkerContext) {
    this.#context = context;
  }

  async run(): Promise<void> {
    const { random, signal } = this.#context;
    while (!signal.aborted) {
      const held = this.#queue.shift();
      if (held !== undefined) await this.#work(held);
      else await this.#claim(random.pick(WORKPLACES));
    }
  }

  #chance(share: number): boolean {
    return !this.#context.isCalm() && this.#context.random.chance(share);
  }

  #suffers(fault: (typeof WORKER_FAULTS)[number], share: number): boolean {
    if (!this.#chance(share)) return false;
    this.#context.books.count(this.#context.books.workerFaults, fault);
    return true;
  }

  #rest(low: number, high: number): Promise<unknown> {
    return pause(this.#context.random.between(low, high));
  }

  /** A worker names itself anew for each claim, so that the log says which claim was whose. */
  #intent(
    place: Workplace,
    maxRuns: number,
    waitMs: number,
    withRequestId: boolean,
    sends: Send[],
  ): ClaimIntent {
    const { books, name } = this.#context;
    const workerId = books.name(name);
    const requestId = withRequestId ? `claim ${workerId}` : '';
    const intent: ClaimIntent = { workerId, place, maxRuns, waitMs, requestId, sends, answers: [] };
    books.claims.push(intent);
    return intent;
  }

  /** @param claims of the answer; undefined when there was none */
  #took(intent: ClaimIntent, claims: readonly Claim[] | undefined, leaseMs: number): Held[] {
    if (claims === undefined) return [];
    const held = claims.map((claim) => heldOf(claim, intent.place, leaseMs));
    intent.answers.push(held);
    return held;
  }

  #giveUp(held: Held): void {
    this.#stale.push(held);
    if (this.#stale.length > KEPT_TOKENS) this.#stale.shift();
  }

  async #claim(place: Workplace): Promise<void> {
    const { random, caller } = this.#context;
    const leaseMs = random.pick(LEASES_MS);
    const waitMs = random.pick(WAITS_MS);
    const withRequestId = random.chance(0.7);
    const sends: Send[] = [];
    const intent = this.#intent(place, random.between(1, 4), waitMs, withRequestId, sends);
    const request = claimRequest(intent, leaseMs);
    const times = withRequestId ? 8 : 1;
    const response = await caller.ask(
      'ClaimNext',
      sends,
      ({ jobs }, options) => jobs.claimNext(request, options),
      { waitMs, times },
    );
    const held = this.#took(intent, response?.claims, leaseMs);
    if (held.length === 0 && waitMs === 0) await this.#rest(20, 200);
    if (held.length > 1 && random.chance(0.4)) await this.#batch(held);
    else this.#queue.push(...held);
  }

  /** @returns whether the run is to be canceled */
  async #send({ intent, request }: Report): Promise<boolean> {
    const response = await this.#context.caller.ask('UpdateStatus', intent.sends, ({ jobs }, options) =>
      jobs.updateStatus(request, options),
    );
    intent.shown = response?.run;
    return response?.cancelRequested ?? false;
  }

  async #work(held: Held): Promise<void> {
    const { pipeline, stage } = held.place;
    if (this.#suffers('killed', 0.04)) {
      this.#giveUp(held);
      return;
    }
    // It stands still, and knows nothing of the time that went by afterwards.
    if (this.#suffers('paused beyond the lease', 0.03))
      await this.#rest(held.leaseMs + 200, held.leaseMs + 1800);
    if (this.#suffers('cut off', 0.02)) this.#cutOff(held.leaseMs);
    if (this.#suffers('connection reset', 0.02)) this.#context.caller.reset();
    let cancels = false;
    if (this.#chance(0.25))
      cancels = await this.#send(report(this.#context, held, 'progress', stage.processing));
    if (this.#chance(0.3)) cancels = (await this.#extend(held)) || cancels;
    if (this.#chance(0.05)) await this.#misuse(held);
    if (this.#stale.length > 0 && this.#suffers('stale token used', 0.1))
      await this.#send(this.#staleReport());
    await this.#rest(0, this.#context.isCalm() ? 5 : 40);
    if (cancels) await this.#send(report(this.#context, held, 'cancel', pipeline.canceled));
    else if (this.#context.random.chance(0.3)) await this.#completeAndClaim(held);
    else await this.#send(endReport(this.#context, held, this.#context.isCalm()));
    this.#giveUp(held);
  }

  async #completeAndClaim(held: Held): Promise<void> {
    const { random, caller } = this.#context;
    const leaseMs = random.pick(LEASES_MS);
    const waitMs = random.pick([0, 0, 300]);
    const sends: Send[] = [];
    const next = this.#intent(held.place, random.between(1, 2), waitMs, true, sends);
    const { done } = held.place.stage;
    const { intent, request } = report(this.#context, held, 'done', done, { intent: next, sends });
    const both = { ...request, claimNext: claimRequest(next, leaseMs) } as typeof request;
    const response = await caller.ask(
      'UpdateStatus',
      sends,
      ({ jobs }, options) => jobs.updateStatus(both, options),
      { waitMs },
    );
    intent.shown = response?.run;
    this.#queue.push(...this.#took(next, response?.claims, leaseMs));
  }

  /** Several reports at once, an old token among them now and then. */
  async #batch(all: readonly Held[]): Promise<void> {
    const { caller, random, books, isCalm } = this.#context;
    const reports = all.map((held) => endReport(this.#context, held, isCalm()));
    if (this.#stale.length > 0 && this.#suffers('stale token used', 0.3))
      reports.splice(random.between(0, reports.length), 0, this.#staleReport());
    const sends: Send[] = [];
    const response = await caller.ask('BatchUpdateStatus', sends, ({ jobs }, options) =>
      jobs.batchUpdateStatus({ requests: reports.map(({ request }) => request) }, options),
    );
    reports.forEach(({ intent }, index) => {
      const result = response?.results[index]?.result;
      if (result?.case === 'run') intent.shown = result.value;
      intent.sends.push(...sends);
      if (result?.case !== 'error') return;
      const reason = reasonOfItem(result.value.details);
      if (reason === 'INTERNAL') books.internal.push(`item of a batch: ${result.value.message}`);
      // An item may fail alone when its part of the batch met a fault.
      const answer = ['LEASE_LOST', 'STATUS_NOT_ALLOWED'].includes(reason) ? reason : UNKNOWN;
      correctLast(intent.sends, answer);
    });
    for (const held of all) this.#giveUp(held);
  }

  /**
   * Extends all that is held, and sometimes what is not any more; half of them with news.
   *
   * @returns whether the first one is to be canceled
   */
  async #extend(held: Held): Promise<boolean> {
    const { random, caller } = this.#context;
    const old = this.#stale.length > 0 && random.chance(0.3) ? [random.pick(this.#stale)] : [];
    const seen = new Set<string>();
    const leases = [held, ...this.#queue, ...old].filter(({ runId }) => !seen.has(runId) && seen.add(runId));
    const sends: Send[] = [];
    const items = leases.map((lease) =>
      random.chance(0.5) ? this.#extension(lease, sends) : this.#news(lease),
    );
    const response = await caller.ask('ExtendLeases', sends, ({ jobs }, options) =>
      jobs.extendLeases({ leases: items.map(({ request }) => request) }, options),
    );
    items.forEach(({ settle }, index) => settle(response?.results[index], sends));
    return response?.results[0]?.outcome === LeaseOutcome.CANCEL_REQUESTED;
  }

  #extension({ leaseId, runId, token, place }: Held, sends: Send[]) {
    const bounded = place.stage.timeoutSeconds > 0;
    const intent: ExtendIntent & { outcome: ExtendIntent['outcome'] } = {
      leaseId,
      bounded,
      sends,
      outcome: undefined,
    };
    this.#context.books.extensions.push(intent);
    const settle = (result: LeaseExtensionResult | undefined): void => {
      if (result === undefined) return;
      const time = result.leaseExpireTime;
      const expireMs = time === undefined ? 0 : Number(time.seconds) * 1000 + Math.floor(time.nanos / 1e6);
      intent.outcome = { lost: result.outcome === LeaseOutcome.LEASE_LOST, expireMs };
    };
    return { request: { runId, leaseToken: token }, settle };
  }

  #news({ leaseId, runId, token }: Held) {
    const { books, random, name } = this.#context;
    const marker = books.name(`by ${name}`);
    const own: Send[] = [];
    const intent: UpdateIntent = {
      marker,
      runId,
      leaseId,
      purpose: 'extend',
      isNews: true,
      next: undefined,
      sends: own,
      shown: undefined,
    };
    books.updates.push(intent);
    const settle = (result: LeaseExtensionResult | undefined, sends: readonly Send[]): void => {
      own.push(...sends);
      if (result?.outcome === LeaseOutcome.LEASE_LOST) correctLast(own, 'LEASE_LOST');
    };
    const request = { runId, leaseToken: token, statusMessage: marker, progress: random.next() };
    return { request, settle };
  }

  /** Loses the network for longer than the lease, while it works on. */
  #cutOff(leaseMs: number): void {
    const { caller, random } = this.#context;
    caller.mode = 'half-open';
    setTimeout(() => (caller.mode = 'pass'), leaseMs + random.between(200, 1500));
  }

  /** Reports a status that is none of the five. */
  async #misuse(held: Held): Promise<void> {
    const { pipeline, stage } = held.place;
    const others = pipeline.stages.filter(({ name }) => name !== stage.name);
    const statuses = ['nonsense', ...others.map(({ processing }) => processing)];
    await this.#send(report(this.#context, held, 'illegal', this.#context.random.pick(statuses)));
  }

  /** An old token with what can be told from all that was said under it in time. */
  #staleReport(): Report {
    const { random } = this.#context;
    const held = random.pick(this.#stale);
    const { pipeline, stage } = held.place;
    const status = random.pick([stage.done, stage.processing, pipeline.error]);
    return report(this.#context, held, 'stale', status);
  }
}

function correctLast(sends: readonly Send[] | Send[], answer: string): void {
  const last = sends.at(-1);
  if (last !== undefined) (sends as Send[])[sends.length - 1] = { ...last, answer };
}
