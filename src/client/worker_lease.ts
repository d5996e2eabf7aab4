/** A lease is over for its worker this much before its end: one tenth of it, at most ten seconds. */
const MARGIN_PART = 10;
const MARGIN_MAX_MS = 10_000;
const RENEWALS = 3;

/**
 * A lease by the worker's own clock, which never goes back. It is counted from before the request that brought it, so
 * that it ends here no later than by the database's clock, whatever the request took.
 */
export class LeaseClock {
  readonly durationMs: number;
  readonly #attemptEndMs: number;
  #startMs: number;

  /**
   * @param durationMs of the lease
   * @param sinceMs the claim was made at this time or later
   * @param attemptMs how long the stage lets an attempt last, however often its lease is extended
   */
  constructor(durationMs: number, sinceMs: number, attemptMs: number) {
    this.durationMs = durationMs;
    this.#startMs = sinceMs;
    this.#attemptEndMs = sinceMs + attemptMs;
  }

  /** When the work has to stop, with a margin for doing so. */
  get endMs(): number {
    const margin = Math.min(this.durationMs / MARGIN_PART, MARGIN_MAX_MS);
    return Math.min(this.#startMs + this.durationMs, this.#attemptEndMs) - margin;
  }

  /** No renewal can move the end any further. */
  get isAttemptOver(): boolean {
    return this.#attemptEndMs <= this.#startMs + this.durationMs;
  }

  /** When the lease should be extended. */
  get renewMs(): number {
    return this.#startMs + this.durationMs / RENEWALS;
  }

  /** The lease was extended by a request that was sent then. */
  renewed(sentMs: number): void {
    this.#startMs = Math.max(this.#startMs, sentMs);
  }
}

/**
 * How long a call of a worker may take, so that there is time for another before the lease ends. A whole number: of
 * `4999.75m` in the header `grpc-timeout`, grpc-js reads `75m`.
 */
export function callTimeoutMs(leaseMs: number): number {
  return Math.round(Math.min(10_000, Math.max(500, leaseMs / 4)));
}

/**
 * How long to wait for a run in one call. A claim may be as old as the call that brings it, so most of its lease must
 * be left by then, and of the time that the stage gives to an attempt.
 */
export function claimWaitMs(leaseMs: number, timeoutMs: number): number {
  return Math.max(100, Math.floor(Math.min(30_000, leaseMs / RENEWALS, timeoutMs / 10)));
}
