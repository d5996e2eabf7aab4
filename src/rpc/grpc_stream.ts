import type { ServerWritableStream } from '@grpc/grpc-js';
import { RPC_LIMITS } from './limits.js';
import type { OpenStream } from './watch_loop.js';
import type { WatchMessage } from '../service/api.js';

type Bytes = Uint8Array;

/**
 * Sends a stream until it ends: the only writer of this call. Pulls the next message only when the last one found
 * room, so that a reader that stops costs `streamPendingBytes`, one message and nothing else. Throws what ended the
 * stream.
 */
export async function sendAll(
  stream: OpenStream,
  sink: Sink,
  encode: (message: WatchMessage) => Buffer,
): Promise<void> {
  // In a function of its own, because nothing but the connection may keep the message while it waits for room.
  const sendNext = async (): Promise<boolean | undefined> => {
    const message = await stream.next();
    return message === undefined ? undefined : sink.write(encode(message));
  };
  try {
    for (let sent = await sendNext(); sent !== undefined; sent = await sendNext()) {
      if (!sent) return stream.throwIfAborted();
    }
  } finally {
    stream.close();
  }
}

/**
 * The writing end of a grpc-js call. grpc-js buffers without bound for whoever ignores the false of `write`, counts
 * 16 messages of any size before it says false, and never calls back for what was pending at a cancel. So bytes are
 * counted here, and every wait also ends with the call.
 */
export class Sink {
  #pendingBytes = 0;
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(private readonly call: ServerWritableStream<Bytes, Bytes>) {
    const close = (): void => this.close();
    call.once('cancelled', close).once('close', close).once('error', close);
    call.on('drain', () => this.#wake?.());
  }

  /** Resolves when there is room for another message; false when the call is over and nothing more can be sent. */
  write(bytes: Bytes): Promise<boolean> {
    if (this.#closed) return Promise.resolve(false);
    const { byteLength } = bytes;
    this.#pendingBytes += byteLength;
    this.call.write(bytes, () => {
      this.#pendingBytes -= byteLength;
      this.#wake?.();
    });
    return this.#room();
  }

  async #room(): Promise<boolean> {
    while (!this.#closed && this.#isFull()) await this.#change();
    return !this.#closed;
  }

  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  #isFull(): boolean {
    return this.#pendingBytes > RPC_LIMITS.streamPendingBytes || this.call.writableNeedDrain;
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
