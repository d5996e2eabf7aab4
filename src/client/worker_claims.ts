import { Bell } from '../base/bell.js';
import type { WorkerCalls } from './worker_calls.js';
import { pause, retryAfterMs, workerClock, type Latch } from './worker_clock.js';
import { callFailure } from './worker_errors.js';
import { callTimeoutMs, claimWaitMs } from './worker_lease.js';
import type { Claimed } from './worker_run.js';
import type { StageDefinition } from './worker_stage.js';
import { Ticket, type ClaimTarget } from './worker_ticket.js';
import type { WorkerErrorContext } from './worker_types.js';

/** An empty answer that comes much sooner than it should is no reason to ask again at once. */
const WAITED_PART = 0.5;
const IDLE_MS = 60_000;

export interface ClaimsOptions {
  readonly calls: WorkerCalls;
  readonly target: ClaimTarget;
  readonly stage: StageDefinition;
  /** How many runs may be held at once. */
  readonly slots: number;
  readonly onClaims: (claimed: readonly Claimed[]) => void;
  readonly onError: (error: Error, context: WorkerErrorContext) => void;
  /** No more is to be claimed. */
  readonly stopping: Latch;
  /** What was claimed without an answer is left to the end of its lease. */
  readonly givenUp: Latch;
}

/**
 * Claims runs for the slots that are free: one call at a time, which waits in the server and asks for no more than can
 * be started. A call without an answer is repeated with the same request id until there is one, also while the worker
 * stops: what it may have claimed would wait in vain for the end of its lease.
 */
export class ClaimLoop {
  readonly #options: ClaimsOptions;
  readonly #bell = new Bell(workerClock);
  #free: number;

  constructor(options: ClaimsOptions) {
    this.#options = options;
    this.#free = options.slots;
    options.stopping.onSet(() => this.#bell.ring());
  }

  /** Slots have become free. */
  release(slots: number): void {
    this.#free += slots;
    if (slots > 0) this.#bell.ring();
  }

  /** Works until the worker stops. */
  async run(): Promise<void> {
    const { stopping, target } = this.#options;
    while (!stopping.isSet) {
      const slots = this.#free;
      if (slots === 0) {
        await this.#bell.wait(IDLE_MS);
        continue;
      }
      this.#free = 0;
      await this.redeem(new Ticket(target, slots), true);
    }
  }

  /**
   * Asks until there is an answer; what it brings goes to `onClaims`, and the slots that stay empty are released.
   *
   * @param waits whether to wait for runs when there are none
   */
  async redeem(ticket: Ticket, waits: boolean): Promise<void> {
    const { stopping, givenUp, onClaims } = this.#options;
    let failures = 0;
    while (!givenUp.isSet && (ticket.wasSent || !stopping.isSet)) {
      const isStopping = stopping.isSet;
      try {
        const claimed = await this.#ask(ticket, waits && !isStopping);
        this.release(Math.max(0, ticket.slots - claimed.length));
        onClaims(claimed);
        return;
      } catch (cause) {
        // The worker has ended the call itself. One more asks for what it may have brought.
        if (stopping.isSet && !isStopping) continue;
        failures += 1;
        const failure = callFailure(cause);
        this.#options.onError(failure.error, { during: 'claim' });
        const delayMs = retryAfterMs(failures, failure.kind === 'again' ? failure.delayMs : 0);
        await pause(delayMs, isStopping ? givenUp : stopping);
      }
    }
    this.release(ticket.slots);
  }

  async #ask(ticket: Ticket, waits: boolean): Promise<Claimed[]> {
    const { calls, stage, stopping, givenUp, target } = this.#options;
    const leaseMs = target.leaseDurationMs ?? stage.rules.leaseMs;
    const waitMs = waits ? claimWaitMs(leaseMs, stage.rules.timeoutMs) : 0;
    const isStopping = stopping.isSet;
    const askedMs = workerClock.now();
    const { claims } = await calls.claimNext(
      // While stopping it is only about what was claimed before, which comes back whatever the number is.
      ticket.send(waitMs, isStopping ? 1 : ticket.slots),
      waitMs + callTimeoutMs(leaseMs),
      isStopping ? givenUp : stopping,
    );
    const tookMs = workerClock.now() - askedMs;
    // A server that is about to stop answers every call with nothing.
    if (claims.length === 0 && tookMs < waitMs * WAITED_PART) await pause(retryAfterMs(1, 0), stopping);
    return ticket.redeem(claims);
  }
}
