import { Code, ConnectError } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { retryDelayMs } from './watch_errors.js';

/** Thrown by a handler: the run has failed for good, whatever attempts are left. */
export class FinalFailure extends Error {
  override readonly name = 'FinalFailure';
  readonly code: string;
  readonly output: object | undefined;

  /**
   * @param message for people, at most 4096 characters
   * @param options.code a short word for programs, at most 64 characters, for example `TEST_FAILED`
   * @param options.output becomes the run's output, for example a log of what failed
   */
  constructor(
    message: string,
    options: { readonly code?: string; readonly output?: object; readonly cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.code = options.code ?? '';
    this.output = options.output;
  }
}

/** Thrown by a handler: the attempt has failed, and the next one, if any is left, begins after this delay. */
export class RetryLater extends Error {
  override readonly name = 'RetryLater';
  readonly code: string;

  /** @param delayMs 0 to 24 h; in place of the stage's backoff */
  constructor(
    message: string,
    readonly delayMs: number,
    options: { readonly code?: string; readonly cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause });
    this.code = options.code ?? '';
  }
}

/**
 * Thrown by a handler: this worker cannot do the run, another one may. It waits again at once, which costs no attempt.
 * The worker leaves the slot empty for a second, so that it does not take the same run round in circles.
 */
export class HandBack extends Error {
  override readonly name = 'HandBack';
}

/**
 * Why a handler has to stop.
 *
 * - `canceled`: somebody has asked to cancel the run; it ends as canceled.
 * - `lease_lost`: the server says that the lease is no longer held; another worker may have the run.
 * - `lease_expired`: the server cannot be reached and the lease is about to end by the worker's own clock, or the
 *   attempt reaches the stage's timeout.
 * - `stopping`: the worker is being stopped; the run is handed back.
 */
export type AbortCause = 'canceled' | 'lease_lost' | 'lease_expired' | 'stopping';

const WHY: Readonly<Record<AbortCause, string>> = {
  canceled: 'the run is to be canceled',
  lease_lost: 'the lease of the run is lost',
  lease_expired: 'the lease of the run could not be extended in time',
  stopping: 'the worker is being stopped',
};

/** The reason of a handler's signal. */
export class RunAborted extends Error {
  override readonly name = 'RunAborted';

  constructor(readonly why: AbortCause) {
    super(WHY[why]);
  }
}

/** What became of a call that failed. */
export type CallFailure =
  /** It may succeed later, and may have been carried out. `delayMs` is what the server asks for. */
  | { readonly kind: 'again'; readonly delayMs: number; readonly error: ConnectError }
  /** The server has refused it, and will again; nothing was changed. */
  | {
      readonly kind: 'refused';
      readonly reason: string;
      readonly fields: readonly string[];
      readonly error: ConnectError;
    };

const REFUSED: ReadonlySet<Code> = new Set([
  Code.InvalidArgument,
  Code.NotFound,
  Code.FailedPrecondition,
  Code.Aborted,
]);

/** Only what carries ErrorInfo is a server's word; a broken connection goes by almost any code. */
export function callFailure(cause: unknown): CallFailure {
  const error = ConnectError.from(cause);
  const [info] = error.findDetails(ErrorInfoSchema);
  if (info === undefined || !REFUSED.has(error.code))
    return { kind: 'again', delayMs: retryDelayMs(error), error };
  const [request] = error.findDetails(BadRequestSchema);
  const fields = request?.fieldViolations.map(({ field }) => field) ?? [];
  return { kind: 'refused', reason: info.reason, fields, error };
}
