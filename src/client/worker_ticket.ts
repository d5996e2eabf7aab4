import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { Claim, ClaimNextRequestSchema } from '../../gen/baton/v1/job_service_pb.js';
import type { Claimed } from './worker_run.js';

/** What every claim of a worker asks for. */
export interface ClaimTarget {
  readonly pipeline: string;
  readonly stage: string;
  readonly workerId: string;
  /** Undefined for the stage's own. */
  readonly leaseDurationMs: number | undefined;
}

/**
 * One intended claim, and the slots that are kept free for it. As long as no answer has come, runs may have been claimed
 * under its request id; the same id asks for them again.
 */
export class Ticket {
  readonly #requestId = globalThis.crypto.randomUUID();
  #firstSentMs = 0;
  #tries = 0;

  /** @param slots how many runs can be started */
  constructor(
    readonly target: ClaimTarget,
    readonly slots: number,
  ) {}

  /** It has been sent: runs may have been claimed with it. */
  get wasSent(): boolean {
    return this.#tries > 0;
  }

  /** The request, which is sent now. */
  send(waitMs: number, maxRuns = this.slots): MessageInitShape<typeof ClaimNextRequestSchema> {
    this.#tries += 1;
    if (this.#tries === 1) this.#firstSentMs = performance.now();
    const { leaseDurationMs, ...target } = this.target;
    return {
      ...target,
      maxRuns,
      requestId: this.#requestId,
      wait: durationFromMs(waitMs),
      ...(leaseDurationMs !== undefined && { leaseDuration: durationFromMs(leaseDurationMs) }),
    };
  }

  /** The runs that an answer has brought. */
  redeem(claims: readonly Claim[]): Claimed[] {
    const claim = { sinceMs: this.#firstSentMs, isFresh: this.#tries === 1 };
    return claims.flatMap(({ run, leaseToken }) =>
      run === undefined ? [] : [{ run, leaseToken, ...claim }],
    );
  }
}
