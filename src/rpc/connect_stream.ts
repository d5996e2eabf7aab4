import type { Message } from '@bufbuild/protobuf';
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
  const end = (): Promise<IteratorResult<Message, undefined>> => {
    stream.close();
    call.finish(0);
    return Promise.resolve({ done: true, value: undefined });
  };
  const next = async (): Promise<IteratorResult<Message, undefined>> => {
    try {
      const message = await stream.next();
      return message === undefined ? await end() : { done: false, value: binding.toProto(message) };
    } catch (error) {
      stream.close();
      throw toError(error);
    }
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: end, throw: end }) };
}
