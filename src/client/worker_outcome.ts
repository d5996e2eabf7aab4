import type { JsonObject } from '@bufbuild/protobuf';
import { LIMITS } from '../base/limits.js';
import { FinalFailure, HandBack, RetryLater } from './worker_errors.js';
import { toPayload, toText } from './worker_payload.js';

/** Why an attempt failed, as it is reported. */
export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  /** Absent for the stage's backoff. */
  readonly retryDelayMs?: number;
}

/** How the work on a run ended. */
export type Outcome =
  | { readonly kind: 'done'; readonly output: JsonObject | undefined }
  | { readonly kind: 'failed'; readonly failure: Failure; readonly output: JsonObject | undefined }
  | { readonly kind: 'canceled' }
  | { readonly kind: 'handed_back' }
  /** The run is another's now, or the server's: there is nothing to say. */
  | { readonly kind: 'lost' };

/** What goes to the server. */
export type Reported = Exclude<Outcome, { kind: 'lost' }>;

/** The outcome of a handler that was not told to stop and has returned this. */
export function returned(value: unknown): Outcome {
  if (value === undefined || value === null) return { kind: 'done', output: undefined };
  try {
    return { kind: 'done', output: toPayload('the output', value, LIMITS.payloadBytes) };
  } catch (error) {
    return failed('OUTPUT_INVALID', error, false);
  }
}

/** The outcome of a handler that was not told to stop and has thrown this. */
export function threw(error: unknown): Outcome {
  if (error instanceof HandBack) return { kind: 'handed_back' };
  if (error instanceof RetryLater) {
    const { failure } = failed(error.code, error, true);
    const retryDelayMs = Math.min(LIMITS.backoffMaxMs, Math.max(0, Math.round(error.delayMs) || 0));
    return { kind: 'failed', failure: { ...failure, retryDelayMs }, output: undefined };
  }
  if (!(error instanceof FinalFailure)) return failed(codeOf(error), error, true);
  const final = failed(error.code, error, false);
  const { output } = error;
  if (output === undefined) return final;
  const payload = returned(output);
  return payload.kind === 'done' ? { ...final, output: payload.output } : payload;
}

export function failed(
  code: string,
  error: unknown,
  retryable: boolean,
): Extract<Outcome, { kind: 'failed' }> {
  return {
    kind: 'failed',
    failure: {
      code: toText(code, LIMITS.errorCodeChars),
      message: toText(error instanceof Error ? error.message : error, LIMITS.errorMessageChars),
      retryable,
    },
    output: undefined,
  };
}

/** The word by which the error's thrower names it (`ENOENT`), or else its class. */
function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return '';
  return 'code' in error && typeof error.code === 'string' ? error.code : error.name;
}
