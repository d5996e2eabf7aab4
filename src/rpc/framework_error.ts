import { Code } from '@connectrpc/connect';
import { BatonError, canceledError } from '../base/errors.js';
import { truncate } from '../base/text.js';
import { malformedRequest, messageTooLarge } from './errors.js';
import { LIMITS } from '../base/limits.js';
import { RPC_LIMITS } from './limits.js';

/**
 * Gives the reason for an error that a transport library made by itself, before or beside a handler: no details are
 * on it yet. Undefined for a code that the libraries do not use by themselves; such an error stays as it is.
 *
 * @param text the library's message. It speaks about the caller's bytes and headers only.
 */
export function frameworkError(code: number, text: string): BatonError | undefined {
  switch (code as Code) {
    case Code.Internal:
      return fromInternal(text);
    case Code.InvalidArgument:
      return malformedRequest(text);
    case Code.ResourceExhausted:
      // The libraries say this of messages over the limit only.
      return messageTooLarge(Number(/readMaxBytes (\d+)/.exec(text)?.[1] ?? LIMITS.messageBytes));
    case Code.Unimplemented:
      return new BatonError('NOT_IMPLEMENTED', truncate(text, RPC_LIMITS.messageChars));
    case Code.DeadlineExceeded:
      return deadlineError();
    case Code.Canceled:
      return canceledError();
    default:
      return undefined;
  }
}

export function deadlineError(): BatonError {
  return new BatonError('DEADLINE_EXCEEDED', "the call's deadline has passed");
}

/** Both libraries call INTERNAL what is wrong with the caller's bytes; the rest is a fault of the server. */
function fromInternal(text: string): BatonError {
  const parse = /^parse binary: (.*)$/s.exec(text)?.[1];
  if (parse !== undefined) return malformedRequest(parse);
  if (/decompress|grpc-timeout/i.test(text)) return malformedRequest(text);
  // What grpc-js makes of an answer that it could not write, of which nobody is left to hear.
  if (text === 'Internal server error') return canceledError();
  return new BatonError('INTERNAL', text);
}
