import { LIMITS } from './limits.js';

/**
 * The closed list of reasons why a call can fail. Each is mapped once to a gRPC code, in `rpc/errors.ts`;
 * on the wire the reason travels in `google.rpc.ErrorInfo.reason`, domain `baton.v1`.
 */
export const ERROR_REASONS = [
  'INVALID_ARGUMENT',
  'RUN_NOT_FOUND',
  'PIPELINE_NOT_FOUND',
  'STAGE_NOT_FOUND',
  'REQUEST_ID_REUSED',
  'STATUS_NOT_ALLOWED',
  'LEASE_LOST',
  'RUN_NOT_TERMINAL',
  'RUN_TERMINAL',
  'PIPELINE_IN_USE',
  'RESUME_TOKEN_TOO_OLD',
  'RESUME_TOKEN_FUTURE',
  'RESUME_TOKEN_FOREIGN',
  'SLOW_CONSUMER',
  'OVERLOADED',
  'DATABASE_UNAVAILABLE',
  'SERVER_STOPPING',
  'NOT_IMPLEMENTED',
  'UNAUTHENTICATED',
  'PERMISSION_DENIED',
  'CANCELED',
  'DEADLINE_EXCEEDED',
  'INTERNAL',
] as const;
export type ErrorReason = (typeof ERROR_REASONS)[number];

/** One thing wrong with a request. `field` is the path in the `.proto` names: `requests[3].labels["a"]`. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

export interface BatonErrorDetails {
  /** Facts about this failure that a program may want: ids, allowed statuses, revisions. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** What is wrong with the request, see `invalidArgument`. */
  readonly violations?: readonly FieldViolation[];
  /** When trying again makes sense, in milliseconds. */
  readonly retryDelayMs?: number;
  /** What led here; it goes to the log and never to the client. */
  readonly cause?: unknown;
}

/** The one error type that services throw. Its message is written for the client. */
export class BatonError extends Error {
  override readonly name = 'BatonError';
  readonly reason: ErrorReason;
  readonly metadata: Readonly<Record<string, string>>;
  readonly violations: readonly FieldViolation[];
  readonly retryDelayMs: number | undefined;

  constructor(reason: ErrorReason, message: string, details: BatonErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.reason = reason;
    this.metadata = details.metadata ?? {};
    this.violations = details.violations ?? [];
    this.retryDelayMs = details.retryDelayMs;
  }
}

/**
 * An INVALID_ARGUMENT that names every field that is wrong.
 *
 * @param omitted how many there are beside these
 */
export function invalidArgument(violations: readonly FieldViolation[], omitted = 0): BatonError {
  const kept = violations.slice(0, LIMITS.violations);
  const more = omitted + violations.length - kept.length;
  const metadata: Record<string, string> = more > 0 ? { violations_omitted: String(more) } : {};
  return new BatonError('INVALID_ARGUMENT', violationText(kept, more), { violations: kept, metadata });
}

/** As many as fit, and how many more there are. */
function violationText(violations: readonly FieldViolation[], omitted: number): string {
  let text = '';
  let more = omitted + violations.length;
  for (const { field, description } of violations) {
    const next = `${text === '' ? '' : '; '}${field}: ${description}`;
    if (text !== '' && text.length + next.length > LIMITS.violationsTextChars) break;
    text += next;
    more -= 1;
  }
  return more === 0 ? text : `${text}; and ${more} more`;
}

/** What a waiting call throws when its caller has gone away. */
export function canceledError(): BatonError {
  return new BatonError('CANCELED', 'the call was canceled by its caller');
}

/** Throws CANCELED when the caller of this call has gone away. */
export function throwIfAborted(signal: { readonly aborted: boolean }): void {
  if (signal.aborted) throw canceledError();
}
