import type { Message } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import type { StreamBinding } from './bindings.js';
import type { ServerCall } from './call.js';
import { OpenStream } from './watch_loop.js';

/**
 * A stream as connect-node pulls it: one `next` at a time, each after the last message was written and the
 * connection had room. Not a generator: when the caller goes away while a write is blocked, connect-node never
 * finalizes one. The abort of the call closes the stream, see `OpenStream`.
 *
 * @param toError makes connect's error from what ended the stream.
 */
export function iterateStream(
  binding: StreamBinding,
  request: Message,
  call: ServerCall,
  toError: (error: unknown) => Error,
): AsyncIterable<Message> {
  const stream = new OpenStream(binding, request, call);
  const end = (code: number): IteratorResult<Message, undefined> => {
    stream.close();
    call.finish(code);
    return { done: true, value: undefined };
  };
  // Called when a write has failed, and once more, without effect, after the end.
  const leave = (): Promise<IteratorResult<Message, undefined>> => Promise.resolve(end(Code.Canceled));
  const next = async (): Promise<IteratorResult<Message, undefined>> => {
    try {
      const message = await stream.next();
      return message === undefined ? end(0) : { done: false, value: binding.toProto(message) };
    } catch (error) {
      stream.close();
      throw toError(error);
    }
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: leave, throw: leave }) };
}
