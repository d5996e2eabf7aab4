import type { ServerHttp2Stream } from 'node:http2';
import { Metadata, type ServerWritableStream } from '@grpc/grpc-js';
import { FRAME_PREFIX_BYTES } from './convert/watch.js';
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
  frame: (message: WatchMessage) => Buffer,
): Promise<void> {
  const send = (message: WatchMessage): boolean => sink.write(frame(message));
  // In a function of its own, because nothing but the connection may keep the message while it waits for room.
  const sendNext = async (): Promise<boolean | undefined> => {
    const message = await stream.next();
    return message === undefined ? undefined : send(message);
  };
  try {
    for (let hasRoom = await sendNext(); hasRoom !== undefined; hasRoom = await sendNext()) {
      if (hasRoom) await stream.handOver(send);
      if (!(await sink.room())) return stream.throwIfAborted();
    }
  } finally {
    stream.close();
  }
}

/** The HTTP/2 stream below a grpc-js call, which it shows to nobody; a test holds that it can still be reached. */
export function http2StreamOf(grpcCall: object): ServerHttp2Stream | undefined {
  return (grpcCall as { readonly call?: { readonly stream?: ServerHttp2Stream } }).call?.stream;
}

/**
 * The writing end of a grpc-js call. Messages go to the HTTP/2 stream below it, framed already: grpc-js would copy
 * each of them for each stream, so that bytes that were encoded once took memory and 40 % of the CPU once per stream.
 * Headers, status and cancels stay its own. Bytes are counted here, because neither of the two bounds what is pending
 * for whoever ignores the false of `write`; and since what is pending at a cancel may never be heard of again, every
 * wait also ends with the call.
 */
export class Sink {
  readonly #stream: ServerHttp2Stream | undefined;
  #pendingBytes = 0;
  #closed = false;
  #wake: (() => void) | undefined;

  constructor(private readonly call: ServerWritableStream<unknown, Bytes>) {
    const close = (): void => this.close();
    call.once('cancelled', close).once('close', close).once('error', close);
    this.#stream = http2StreamOf(call);
    // Node takes a stream's error without a listener for a crash; the call is told by its end.
    this.#stream?.on('error', () => {});
  }

  /**
   * Writes a message if the call is not over.
   *
   * @param frame the message behind its prefix
   * @returns whether there is room for another one
   */
  write(frame: Buffer): boolean {
    if (this.#closed || this.#isOver()) return false;
    const { byteLength } = frame;
    this.#pendingBytes += byteLength;
    const written = (): void => {
      this.#pendingBytes -= byteLength;
      this.#wake?.();
    };
    if (this.#stream === undefined) {
      this.call.write(frame.subarray(FRAME_PREFIX_BYTES), written);
    } else {
      if (!this.#stream.headersSent) this.call.sendMetadata(new Metadata());
      this.#stream.write(frame, written);
    }
    return this.#hasRoom();
  }

  #hasRoom(): boolean {
    return !this.#closed && this.#pendingBytes <= RPC_LIMITS.streamPendingBytes;
  }

  /** Also before the call tells of it: at a deadline grpc-js ends the stream, and says so when all that is pending is out. */
  #isOver(): boolean {
    const stream = this.#stream;
    return stream !== undefined && (stream.writableEnded || stream.closed || stream.destroyed);
  }

  /** Resolves when there is room for another message; false when the call is over and nothing more can be sent. */
  async room(): Promise<boolean> {
    while (!this.#closed && (this.#isOver() || !this.#hasRoom())) await this.#change();
    return !this.#closed;
  }

  close(): void {
    this.#closed = true;
    this.#wake?.();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }
}
