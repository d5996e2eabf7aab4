import { timestampMs } from '@bufbuild/protobuf/wkt';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import { RunAborted, type AbortCause } from './worker_errors.js';
import { LeaseClock } from './worker_lease.js';
import { Mailbox } from './worker_news.js';
import { returned, threw, type Outcome } from './worker_outcome.js';
import type { RunContext, RunHandler } from './worker_types.js';

/**
 * What is done with a held run.
 *
 *     confirming ──confirm──▶ running ──the handler settles──▶ over
 *         │                      └─abort─▶ stopped ──it settles, or is abandoned──▶ over
 *         └──abort──▶ over
 */
type Phase =
  /** It is not certain that the lease is still held: a renewal has to say so before the handler begins. */
  | { readonly kind: 'confirming' }
  | { readonly kind: 'running' }
  /** The handler was told to stop, and may still be at work. */
  | { readonly kind: 'stopped'; readonly why: AbortCause }
  | { readonly kind: 'over' };

export interface Claimed {
  readonly run: Run;
  readonly leaseToken: string;
  /** The claim was made at this time of the worker's clock or later. */
  readonly sinceMs: number;
  /** The claim came with the first answer to its request, so nobody can have handed it back since. */
  readonly isFresh: boolean;
}

/** One run that the worker holds, from its claim until it is known how the work on it has ended. */
export class HeldRun {
  readonly run: Run;
  readonly leaseToken: string;
  readonly lease: LeaseClock;
  readonly mail = new Mailbox();
  readonly outcome: Promise<Outcome>;
  readonly #handler: RunHandler;
  readonly #onNews: () => void;
  readonly #abort = new AbortController();
  #phase: Phase = { kind: 'confirming' };
  #resolve: (outcome: Outcome) => void = () => undefined;
  #expiry: NodeJS.Timeout | undefined;

  /**
   * @param attemptMs how long the stage lets an attempt last
   * @param onNews told when something is to be sent at once
   */
  constructor(claimed: Claimed, attemptMs: number, handler: RunHandler, onNews: () => void) {
    this.run = claimed.run;
    this.leaseToken = claimed.leaseToken;
    this.lease = new LeaseClock(leaseMs(claimed.run), claimed.sinceMs, attemptMs);
    this.#handler = handler;
    this.#onNews = onNews;
    this.outcome = new Promise((resolve) => (this.#resolve = resolve));
  }

  /** The lease has to be confirmed before the handler may begin. */
  get isConfirming(): boolean {
    return this.#phase.kind === 'confirming';
  }

  /** The lease is of use: work goes on under it, or its end has still to be reported. */
  get needsLease(): boolean {
    const phase = this.#phase;
    if (phase.kind === 'stopped') return phase.why === 'canceled' || phase.why === 'stopping';
    return phase.kind !== 'over';
  }

  /** The lease is held: lets the handler begin. */
  confirm(): void {
    if (this.#phase.kind !== 'confirming') return;
    this.#phase = { kind: 'running' };
    this.#watchLease();
    void this.#work();
  }

  /** The lease was extended by a request that was sent then. */
  renewed(sentMs: number): void {
    this.lease.renewed(sentMs);
    if (this.#phase.kind === 'confirming') this.confirm();
    else this.#watchLease();
  }

  /** Tells the handler to stop. Of several reasons the first counts, but for a lease that is lost. */
  abort(why: AbortCause): void {
    const phase = this.#phase;
    if (phase.kind === 'over' || (phase.kind === 'stopped' && why !== 'lease_lost')) return;
    this.#phase = { kind: 'stopped', why };
    this.#abort.abort(new RunAborted(why));
    if (phase.kind === 'confirming') this.#end(this.#stoppedOutcome(why));
  }

  /** Waits no longer for a handler that was told to stop. */
  abandon(): void {
    if (this.#phase.kind === 'stopped') this.#end(this.#stoppedOutcome(this.#phase.why));
  }

  async #work(): Promise<void> {
    const outcome = await this.#handle();
    const phase = this.#phase;
    this.#end(phase.kind === 'stopped' ? this.#stoppedOutcome(phase.why) : outcome);
  }

  async #handle(): Promise<Outcome> {
    const context: RunContext = {
      signal: this.#abort.signal,
      progress: (fraction, message, options) => {
        this.mail.progress(fraction, message, options?.atOnce ?? false);
        if (this.mail.isUrgent) this.#onNews();
      },
      checkpoint: (state) => {
        const stored = this.mail.checkpoint(state);
        this.#onNews();
        return stored;
      },
    };
    try {
      return returned(await this.#handler(this.run, context));
    } catch (error) {
      return threw(error);
    }
  }

  #end(outcome: Outcome): void {
    if (this.#phase.kind === 'over') return;
    this.#phase = { kind: 'over' };
    clearTimeout(this.#expiry);
    this.#resolve(outcome);
  }

  /**
   * A handler that was told to stop may have returned early, so what it gave does not count. A lease that could not be
   * extended may still be held, and is then handed back; but an attempt that has used up its time has to count.
   */
  #stoppedOutcome(why: AbortCause): Outcome {
    if (why === 'canceled') return { kind: 'canceled' };
    if (why === 'stopping') return { kind: 'handed_back' };
    return why === 'lease_expired' && !this.lease.isAttemptOver ? { kind: 'handed_back' } : { kind: 'lost' };
  }

  /** Stops the work before another worker can have the run, whatever the network does. */
  #watchLease(): void {
    clearTimeout(this.#expiry);
    if (this.#phase.kind !== 'running') return;
    const leftMs = this.lease.endMs - performance.now();
    if (leftMs <= 0) this.abort('lease_expired');
    else this.#expiry = setTimeout(() => this.#watchLease(), leftMs);
  }
}

/** How long the lease of a fresh claim lasts: both times are of the database's clock, at the claim. */
function leaseMs(run: Run): number {
  if (run.leaseExpireTime === undefined || run.updateTime === undefined) return 0;
  return timestampMs(run.leaseExpireTime) - timestampMs(run.updateTime);
}
