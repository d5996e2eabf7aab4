/**
 * HTTP/2 frame by frame (RFC 9113), for what no well-behaved client sends: floods of small frames, streams that are
 * reset at once, requests that never end. Sends what it is told and reads only how the server ends the connection.
 */
import { connect, type Socket } from 'node:net';

export const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  reset: 3,
  settings: 4,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
const END_STREAM = 1;
const END_HEADERS = 4;
const FRAME_HEADER_BYTES = 9;

export function frame(type: number, flags: number, stream: number, payload: Uint8Array = EMPTY): Buffer {
  const bytes = Buffer.alloc(FRAME_HEADER_BYTES + payload.byteLength);
  bytes.writeUIntBE(payload.byteLength, 0, 3);
  bytes[3] = type;
  bytes[4] = flags;
  bytes.writeUInt32BE(stream, 5);
  bytes.set(payload, FRAME_HEADER_BYTES);
  return bytes;
}

const EMPTY = new Uint8Array(0);

/** A header block of literals without indexing (RFC 7541, 6.2.2), so that it means the same on every stream. */
export function headerBlock(headers: Readonly<Record<string, string>>): Buffer {
  return Buffer.concat(
    Object.entries(headers).flatMap(([name, value]) => [Buffer.of(0), literal(name), literal(value)]),
  );
}

/** A string without Huffman coding, its length as an integer with a prefix of 7 bits. */
function literal(text: string): Buffer {
  const bytes = Buffer.from(text, 'latin1');
  const length = [Math.min(bytes.byteLength, 127)];
  for (let rest = bytes.byteLength - 127; rest >= 0; rest = rest < 128 ? -1 : Math.floor(rest / 128))
    length.push(rest < 128 ? rest : (rest % 128) + 128);
  return Buffer.concat([Buffer.from(length), bytes]);
}

/** What a unary gRPC call begins with. */
export function callHeaders(method: string, type = 'application/grpc'): Buffer {
  return headerBlock({
    ':method': 'POST',
    ':scheme': 'http',
    ':path': `/baton.v1.JobService/${method}`,
    ':authority': '127.0.0.1',
    'content-type': type,
    te: 'trailers',
  });
}

export const openFrame = (stream: number, block: Uint8Array, isEnd = false): Buffer =>
  frame(FRAME.headers, END_HEADERS | (isEnd ? END_STREAM : 0), stream, block);

export const dataFrame = (stream: number, data: Uint8Array, isEnd = false): Buffer =>
  frame(FRAME.data, isEnd ? END_STREAM : 0, stream, data);

export function resetFrame(stream: number, code = 8): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32BE(code);
  return frame(FRAME.reset, 0, stream, payload);
}

/** @param payload 8 bytes, which come back */
export const pingFrame = (payload: Uint8Array): Buffer => frame(FRAME.ping, 0, 0, payload);

/** Streams that are opened and reset at once, as the first that a connection sends. */
export function rapidResets(block: Uint8Array, count: number): Buffer {
  const streams = Array.from({ length: count }, (_unused, index) => 2 * index + 1);
  return Buffer.concat(streams.flatMap((stream) => [openFrame(stream, block), resetFrame(stream)]));
}

/** A message of gRPC: not compressed, behind its length. */
export function grpcMessage(bytes: Uint8Array): Buffer {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(bytes.byteLength, 1);
  return Buffer.concat([prefix, bytes]);
}

/** How the server ended a connection, as far as it said so. */
export interface Goaway {
  readonly code: number;
  readonly lastStream: number;
}

/** One connection. Stream ids are odd numbers that only grow; `nextStream` gives them. */
export class RawHttp2 {
  readonly goaways: Goaway[] = [];
  readonly received = new Map<number, number>();
  readonly closed: Promise<void>;
  #isClosed = false;
  #stream = -1;
  #unread: Buffer = Buffer.alloc(0);

  private constructor(readonly socket: Socket) {
    this.closed = new Promise((resolve) =>
      socket.once('close', () => {
        this.#isClosed = true;
        resolve();
      }),
    );
    // A reset by the server is one of the ways in which it ends a connection.
    socket.on('error', () => undefined);
    socket.on('data', (bytes) => this.#read(bytes));
  }

  /** Connects, and says what every connection begins with, and in the same write `first`. */
  static async open(port: number, first: Uint8Array = Buffer.alloc(0)): Promise<RawHttp2> {
    const socket = connect({ host: '127.0.0.1', port, noDelay: true });
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    const connection = new RawHttp2(socket);
    const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
    socket.write(Buffer.concat([preface, frame(FRAME.settings, 0, 0), first]));
    return connection;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  nextStream(): number {
    this.#stream += 2;
    return this.#stream;
  }

  /** Sends frames as one write; false when the connection is over. Resolves when the socket has room again. */
  async send(...frames: readonly Uint8Array[]): Promise<boolean> {
    if (this.#isClosed || this.socket.destroyed) return false;
    if (!this.socket.write(Buffer.concat(frames)))
      await Promise.race([new Promise<void>((resolve) => this.socket.once('drain', resolve)), this.closed]);
    return !this.#isClosed;
  }

  /** How many frames of this type came. */
  count(type: number): number {
    return this.received.get(type) ?? 0;
  }

  close(): void {
    this.socket.destroy();
  }

  #read(bytes: Buffer): void {
    this.#unread = this.#unread.length === 0 ? bytes : Buffer.concat([this.#unread, bytes]);
    while (this.#unread.length >= FRAME_HEADER_BYTES) {
      const end = FRAME_HEADER_BYTES + this.#unread.readUIntBE(0, 3);
      if (this.#unread.length < end) return;
      this.#take(this.#unread[3] ?? 0, this.#unread[4] ?? 0, this.#unread.subarray(FRAME_HEADER_BYTES, end));
      this.#unread = this.#unread.subarray(end);
    }
  }

  #take(type: number, flags: number, payload: Buffer): void {
    this.received.set(type, (this.received.get(type) ?? 0) + 1);
    if (type === FRAME.goaway)
      this.goaways.push({ lastStream: payload.readUInt32BE(0), code: payload.readUInt32BE(4) });
    if (type === FRAME.settings && (flags & 1) === 0) this.socket.write(frame(FRAME.settings, 1, 0));
    if (type === FRAME.ping && (flags & 1) === 0) this.socket.write(frame(FRAME.ping, 1, 0, payload));
  }
}
