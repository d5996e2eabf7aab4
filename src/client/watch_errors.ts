import { Code, ConnectError } from '@connectrpc/connect';
import { durationMs } from '@bufbuild/protobuf/wkt';
import { ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';

/** Which promise of the stream was broken; see the guarantees in `job_service.proto`. */
export type WatchRule =
  /** OPENED comes first, once, at the place that was asked for. */
  | 'opened'
  /** The state is sent when it was asked for, before the changes, as of one revision, each run once. */
  | 'state'
  /** Revisions strictly increase, and a message covers what it carries. */
  | 'order'
  /** The versions of a run have no gap and no repetition. */
  | 'density'
  /** Every message has the token of its place. */
  | 'token'
  /** A stream until terminal ends after the last event of the last run. */
  | 'end'
  /** An entry shows its run, at the version that it names. */
  | 'shape';

/** The server has broken a promise: what was received is not the whole truth. Never retried. */
export class WatchProtocolError extends Error {
  override readonly name = 'WatchProtocolError';

  /** @param details facts about the violation: revisions, versions, ids */
  constructor(
    readonly rule: WatchRule,
    message: string,
    readonly details: Readonly<Record<string, string>> = {},
  ) {
    super(message);
  }
}

/**
 * The server cannot continue from the token. `reason` says why: RESUME_TOKEN_TOO_OLD (the history is no longer kept;
 * `metadata.oldest_revision`), RESUME_TOKEN_FOREIGN (another database) or RESUME_TOKEN_FUTURE (a database that was set
 * back).
 */
export class WatchTokenError extends Error {
  override readonly name = 'WatchTokenError';

  constructor(
    readonly reason: string,
    readonly metadata: Readonly<Record<string, string>>,
    override readonly cause: ConnectError,
  ) {
    super(cause.rawMessage);
  }
}

/** Codes that say the same on every attempt. */
const FINAL: ReadonlySet<Code> = new Set([
  Code.InvalidArgument,
  Code.NotFound,
  Code.AlreadyExists,
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.Unimplemented,
]);

/** Of those, what also proxies say, and Connect of their answers, without any details. */
const FINAL_WITHOUT_DETAILS: ReadonlySet<Code> = new Set([
  Code.PermissionDenied,
  Code.Unauthenticated,
  Code.Unimplemented,
]);

/**
 * What an error of the stream means. Errors of a server carry ErrorInfo; the transport's own do not, and it calls a
 * connection that broke by almost any name (a Connect stream without its last frame is INVALID_ARGUMENT).
 *
 * @returns undefined when another attempt may succeed, else what to throw
 */
export function finalError(error: unknown): WatchTokenError | ConnectError | undefined {
  const failure = ConnectError.from(error);
  const [info] = failure.findDetails(ErrorInfoSchema);
  if (info === undefined) return FINAL_WITHOUT_DETAILS.has(failure.code) ? failure : undefined;
  if (failure.code === Code.OutOfRange || failure.code === Code.FailedPrecondition)
    return new WatchTokenError(info.reason, info.metadata, failure);
  return FINAL.has(failure.code) ? failure : undefined;
}

/** How long the server asks to wait, in milliseconds; 0 when it does not say. */
export function retryDelayMs(error: unknown): number {
  const [info] = ConnectError.from(error).findDetails(RetryInfoSchema);
  return info?.retryDelay === undefined ? 0 : durationMs(info.retryDelay);
}
