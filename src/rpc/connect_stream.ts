import { create, type DescMessage, type Message } from '@bufbuild/protobuf';
import { BinaryReader } from '@bufbuild/protobuf/wire';
import { Code } from '@connectrpc/connect';
import type { WatchMessage, WatchStream } from '../service/api.js';
import type { ServerCall } from './call.js';
import { OpenStream } from './watch_loop.js';

/**
 * A message for connect to write in binary protobuf, without having it encoded by the library: its bytes are the fields
 * of a message that the library does not know, and which it writes as they are.
 */
export function encodedMessage(schema: DescMessage, bytes: Uint8Array): Message {
  const message = create(schema);
  if (bytes.length === 0) return message;
  const reader = new BinaryReader(bytes);
  const [no, wireType] = reader.tag();
  message.$unknown = [{ no, wireType, data: bytes.subarray(reader.pos) }];
  return message;
}

/**
 * A stream as connect-node pulls it: one `next` at a time, each after the last message was written and the
 * connection had room. Not a generator: when the caller goes away while a write is blocked, connect-node never
 * finalizes one. The abort of the call closes the stream, see `OpenStream`.
 *
 * @param toError makes connect's error from what ended the stream.
 */
export function iterateStream(
  open: () => Promise<WatchStream>,
  call: ServerCall,
  toProto: (message: WatchMessage) => Message,
  toError: (error: unknown) => Error,
): AsyncIterable<Message> {
  const stream = new OpenStream(open, call);
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
      return message === undefined ? end(0) : { done: false, value: toProto(message) };
    } catch (error) {
      stream.close();
      throw toError(error);
    }
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: leave, throw: leave }) };
}
