import { create, createRegistry, toBinary } from '@bufbuild/protobuf';
import { anyPack, anyUnpack, durationFromMs, type Any } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { StatusSchema, type Status } from '../../gen/google/rpc/status_pb.js';
import { BatonError, type ErrorReason, type FieldViolation } from '../base/errors.js';
import { logInternalError } from '../base/internal_error.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { printable, truncate } from '../base/text.js';
import { RPC_LIMITS } from './limits.js';

/** The domain of every `google.rpc.ErrorInfo` that Baton sends. */
export const ERROR_DOMAIN = 'baton.v1';

/** The one table from a reason to its gRPC code; Connect's codes have the same numbers. */
export const CODE_OF_REASON: Readonly<Record<ErrorReason, Code>> = {
  INVALID_ARGUMENT: Code.InvalidArgument,
  RUN_NOT_FOUND: Code.NotFound,
  PIPELINE_NOT_FOUND: Code.NotFound,
  STAGE_NOT_FOUND: Code.NotFound,
  REQUEST_ID_REUSED: Code.AlreadyExists,
  STATUS_NOT_ALLOWED: Code.FailedPrecondition,
  LEASE_LOST: Code.Aborted,
  RUN_NOT_TERMINAL: Code.FailedPrecondition,
  RUN_TERMINAL: Code.FailedPrecondition,
  PIPELINE_IN_USE: Code.FailedPrecondition,
  RESUME_TOKEN_TOO_OLD: Code.OutOfRange,
  RESUME_TOKEN_FUTURE: Code.FailedPrecondition,
  RESUME_TOKEN_FOREIGN: Code.FailedPrecondition,
  SLOW_CONSUMER: Code.ResourceExhausted,
  OVERLOADED: Code.ResourceExhausted,
  DATABASE_UNAVAILABLE: Code.Unavailable,
  SERVER_STOPPING: Code.Unavailable,
  NOT_IMPLEMENTED: Code.Unimplemented,
  UNAUTHENTICATED: Code.Unauthenticated,
  PERMISSION_DENIED: Code.PermissionDenied,
  CANCELED: Code.Canceled,
  DEADLINE_EXCEEDED: Code.DeadlineExceeded,
  INTERNAL: Code.Internal,
};

/** The messages that travel as details, for whoever has to read or print a `google.protobuf.Any`. */
export const DETAIL_REGISTRY = createRegistry(ErrorInfoSchema, BadRequestSchema, RetryInfoSchema);

const RETRY_DELAY_DEFAULT_MS = 1000;

/**
 * Turns whatever a call threw into the one status that every transport sends. A `BatonError` keeps its message and
 * facts. Anything else becomes INTERNAL with a random id; the error itself goes to the log under that id only.
 */
export function toStatus(error: unknown, log: Logger): Status {
  if (!(error instanceof BatonError) || error.reason === 'INTERNAL') return internalStatus(error, log);
  if (error.cause !== undefined) log.warn(causeOf(error), 'a call has failed');
  return statusOf(error);
}

/** What the client is not told. Where the database said so is of no use, so there is no stack. */
function causeOf({ reason, message, cause }: BatonError): object {
  const { code } = cause as { code?: unknown };
  return { reason, error: message, code, cause: cause instanceof Error ? cause.message : String(cause) };
}

function internalStatus(error: unknown, log: Logger): Status {
  const id = logInternalError(log, error, 'internal error');
  return statusOf(new BatonError('INTERNAL', `internal error, id ${id}`, { metadata: { error_id: id } }));
}

/** The status of an error that may be told as it is. */
export function statusOf(error: BatonError): Status {
  const code = CODE_OF_REASON[error.reason];
  const metadata = Object.entries(error.metadata).map(([key, value]) => [
    key,
    truncate(value, RPC_LIMITS.metadataChars),
  ]);
  const info = {
    reason: error.reason,
    domain: ERROR_DOMAIN,
    metadata: Object.fromEntries(metadata) as Record<string, string>,
  };
  const details: Any[] = [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, info))];
  if (error.violations.length > 0) {
    const fieldViolations = error.violations.map(({ field, description }) => ({ field, description }));
    details.push(anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations })));
  }
  if (code === Code.ResourceExhausted || code === Code.Unavailable) {
    const retryDelay = durationFromMs(Math.ceil(error.retryDelayMs ?? RETRY_DELAY_DEFAULT_MS));
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay })));
  }
  const message = printable(truncate(error.message, RPC_LIMITS.messageChars));
  return create(StatusSchema, { code, message, details });
}

/**
 * Makes a status small enough for HTTP/2 trailers, see `RPC_LIMITS.trailerDetailsBytes`: leaves out the last
 * violations, and says in ErrorInfo's `violations_omitted` how many. Nearly always the status itself.
 */
export function fitTrailers(status: Status): Status {
  return fits(status) ? status : withFewerViolations(status);
}

/** A status without its violations, but with how many there were, and with the beginning of its message. */
export function shortStatus(status: Status): Status {
  const count = violationCount(status);
  const { code, details } = count === 0 ? status : omitViolations(status, count);
  const message = truncate(status.message, RPC_LIMITS.shortMessageChars);
  return create(StatusSchema, { code, message, details });
}

function fits(status: Status): boolean {
  return toBinary(StatusSchema, status).byteLength <= RPC_LIMITS.trailerDetailsBytes;
}

function withFewerViolations(status: Status): Status {
  const count = violationCount(status);
  let [tooFew, enough] = [0, count];
  while (tooFew + 1 < enough) {
    const middle = Math.floor((tooFew + enough) / 2);
    if (fits(omitViolations(status, middle))) enough = middle;
    else tooFew = middle;
  }
  return count === 0 ? status : omitViolations(status, enough);
}

function violationCount(status: Status): number {
  const request = status.details.map((any) => anyUnpack(any, BadRequestSchema)).find((m) => m !== undefined);
  return request?.fieldViolations.length ?? 0;
}

function omitViolations(status: Status, omitted: number): Status {
  const details = status.details.map((any) => {
    const info = anyUnpack(any, ErrorInfoSchema);
    if (info !== undefined) {
      info.metadata['violations_omitted'] = String(
        Number(info.metadata['violations_omitted'] ?? 0) + omitted,
      );
      return anyPack(ErrorInfoSchema, info);
    }
    const request = anyUnpack(any, BadRequestSchema);
    if (request === undefined) return any;
    const fieldViolations = request.fieldViolations.slice(0, -omitted);
    return anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations }));
  });
  return create(StatusSchema, { code: status.code, message: status.message, details });
}

/** What a transport says when it cannot read the bytes of a request. */
export function malformedRequest(message: string): BatonError {
  return new BatonError('INVALID_ARGUMENT', truncate(message, RPC_LIMITS.messageChars), {
    violations: fieldsNamedBy(message),
  });
}

/**
 * The same of one over the limit. gRPC's libraries call that RESOURCE_EXHAUSTED, which here tells a client to come again
 * later: this message will be as large then.
 */
export function messageTooLarge(limit: number = LIMITS.messageBytes): BatonError {
  return malformedRequest(`the message is larger than ${limit} bytes`);
}

/** The texts in which protobuf-es names the field that it could not read from JSON. */
function fieldsNamedBy(message: string): FieldViolation[] {
  const unknown = /from JSON: key "(.{1,200}?)" is unknown$/s.exec(message)?.[1];
  if (unknown !== undefined) return [{ field: unknown, description: 'unknown field' }];
  const bad = /^cannot decode field [\w.]*\.(\w+) from JSON: (.*)$/s.exec(message);
  if (bad?.[1] === undefined || bad[2] === undefined) return [];
  return [{ field: bad[1], description: truncate(bad[2], 200) }];
}
