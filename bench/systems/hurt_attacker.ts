/** Sends hostile requests, each over a connection of its own, and answers with what became of them. */
import { connect, constants, type ClientHttp2Session } from 'node:http2';
import { connect as connectTcp } from 'node:net';
import { constants as osConstants, setPriority } from 'node:os';
import { COMPRESS } from '../support/hostile_bytes.js';
import { HOSTILE, type Way } from '../support/hostile_requests.js';
import { childArgs, serve } from '../support/ipc.js';
import { hasPong, inPieces, LAST_PING, openedAndReset, OPENING } from '../support/raw_frames.js';

export interface AttackerArgs {
  readonly grpcPort: number;
  readonly httpPort: number;
}

export interface Attack {
  readonly name: string;
  readonly way: Way;
  readonly size: number;
  readonly copies: number;
  /** Streams that are opened and reset, or aborted, over each connection. */
  readonly streams: number;
}

export interface Attacked {
  /** How often each answer came: a gRPC status, an HTTP status with Connect's code, or how it ended. */
  readonly answers: Readonly<Record<string, number>>;
  readonly sentBytes: number;
  readonly ms: number;
}

/** An answer that takes longer is none. */
const ANSWER_TIMEOUT_MS = 30_000;
/** Calls are begun and given up this many at a time, and then the bytes get out. */
const TURN_STREAMS = 100;
/** As many bytes as those streams take that are reset. */
const PIECES_PER_STREAM = 12;
const { grpcPort, httpPort } = childArgs() as AttackerArgs;

// An attacker brings a machine of his own: what it takes to make so many requests must not come off the cores of those
// who are measured.
setPriority(osConstants.priority.PRIORITY_LOW);

interface Prepared {
  readonly port: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer;
}

function framed(data: Buffer, flags = 0): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(data.length, 1);
  return Buffer.concat([head, data]);
}

function prepare({ name, way, size }: Attack): Prepared {
  const { method, make, headers: own } = HOSTILE[name]!;
  const bytes = make(size);
  const binary = bytes.binary ?? Buffer.alloc(0);
  const json = bytes.json ?? Buffer.alloc(0);
  const path = `/baton.v1.JobService/${method}`;
  const post = (port: number, type: string, body: Buffer, more: Record<string, string> = {}): Prepared => ({
    ...{ port, body },
    headers: { ':method': 'POST', ':path': path, 'content-type': type, ...more, ...own },
  });
  switch (way) {
    case 'gRPC':
    case 'reset, gRPC port':
    case 'pieces, gRPC port':
      return post(grpcPort, 'application/grpc', framed(binary), { te: 'trailers' });
    case 'gRPC on HTTP':
    case 'reset, HTTP port':
    case 'pieces, HTTP port':
    case 'abort, gRPC on HTTP':
      return post(httpPort, 'application/grpc', framed(binary), { te: 'trailers' });
    case 'gRPC gzip': {
      const more = { te: 'trailers', 'grpc-encoding': 'gzip' };
      return post(grpcPort, 'application/grpc', framed(COMPRESS.gzip(binary), 1), more);
    }
    case 'gRPC-Web':
      return post(httpPort, 'application/grpc-web+proto', framed(binary));
    case 'Connect':
      return post(httpPort, 'application/proto', binary);
    case 'Connect br':
      return post(httpPort, 'application/proto', COMPRESS.br(binary), { 'content-encoding': 'br' });
    case 'Connect JSON':
      return post(httpPort, 'application/json', json);
    case 'Connect JSON gzip':
      return post(httpPort, 'application/json', COMPRESS.gzip(json), { 'content-encoding': 'gzip' });
    case 'Connect GET br': {
      const message = COMPRESS.br(binary).toString('base64url');
      const query = `connect=v1&encoding=proto&compression=br&base64=1&message=${message}`;
      return {
        port: httpPort,
        headers: { ':method': 'GET', ':path': `${path}?${query}` },
        body: Buffer.alloc(0),
      };
    }
  }
}

/** One request with its answer in short; what the server does to the connection is an answer too. */
function sendOne(session: ClientHttp2Session, { headers, body }: Prepared): Promise<string> {
  return new Promise((resolve) => {
    let [status, grpc, start, end] = ['', '', '', ''];
    const timer = setTimeout(() => resolve('no answer'), ANSWER_TIMEOUT_MS);
    const stream = session.request(headers, { endStream: false });
    stream.on('response', (head) => {
      status = String(head[':status']);
      grpc = String(head['grpc-status'] ?? '');
    });
    stream.on('trailers', (trailers) => (grpc = String(trailers['grpc-status'] ?? grpc)));
    stream.on('data', (chunk: Buffer) => {
      // A code is at the beginning of an error of Connect, and in the last frame of gRPC-Web.
      if (start === '') start = chunk.toString('latin1', 0, 100);
      end = (end + chunk.toString('latin1')).slice(-2000);
    });
    stream.on('error', () => undefined);
    stream.on('close', () => {
      clearTimeout(timer);
      const inBody = /grpc-status: ?(\d+)/.exec(end)?.[1] ?? /^\{"code":"(\w+)"/.exec(start)?.[1];
      const code = grpc === '' ? inBody : grpc;
      resolve(status === '' ? 'closed' : `${status}${code === undefined ? '' : ` ${code}`}`);
    });
    stream.end(body);
  });
}

/** Calls that begin and are given up a moment later. */
async function sendAndAbort(
  session: ClientHttp2Session,
  prepared: Prepared,
  { streams }: Attack,
): Promise<string> {
  const isOpen = (): boolean => !session.destroyed && !session.closed;
  for (let sent = 0; sent < streams && isOpen(); sent += TURN_STREAMS) {
    const opened = Array.from({ length: Math.min(TURN_STREAMS, streams) }, () => {
      const stream = session.request(prepared.headers, { endStream: false });
      stream.on('error', () => undefined);
      // Half a frame: the call has begun and its message never comes.
      stream.write(prepared.body.subarray(0, 3));
      return stream;
    });
    await new Promise((resolve) => setTimeout(resolve, 1));
    for (const stream of opened) stream.close(constants.NGHTTP2_CANCEL);
  }
  return isOpen() ? 'aborted' : 'closed';
}

/** Frames that no client sends, until the server has seen them all or closes. */
function sendRaw({ port, headers }: Prepared, { streams, way }: Attack): Promise<Copy> {
  const socket = connectTcp(port, '127.0.0.1');
  return new Promise((resolve) => {
    let received: Buffer = Buffer.alloc(0);
    const timer = setTimeout(() => socket.destroy(), ANSWER_TIMEOUT_MS);
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received.subarray(-100), chunk]);
      if (hasPong(received)) socket.destroy();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(timer);
      resolve({ answer: hasPong(received) ? 'all seen' : 'closed', sentBytes: socket.bytesWritten });
    });
    const path = headers[':path'] ?? '';
    const frames = way.startsWith('reset')
      ? openedAndReset(path, 1, streams)
      : inPieces(path, streams * PIECES_PER_STREAM);
    socket.write(Buffer.concat([OPENING, frames, LAST_PING]));
  });
}

interface Copy {
  readonly answer: string;
  readonly sentBytes: number;
}

async function sendCopy(attack: Attack, prepared: Prepared): Promise<Copy> {
  if (/^(reset|pieces)/.test(attack.way)) return sendRaw(prepared, attack);
  // Node's own limit of 10 MB would have it reset its own large requests, and hear no answer.
  const session = connect(`http://127.0.0.1:${prepared.port}`, { maxSessionMemory: 64 });
  session.on('error', () => undefined);
  await new Promise((resolve) => session.once('connect', resolve).once('close', resolve));
  if (session.destroyed) return { answer: 'refused', sentBytes: 0 };
  const { socket } = session;
  // The session takes its socket's properties away when it ends.
  const written = (): number => (session.destroyed ? prepared.body.length : socket.bytesWritten);
  const answer = await (attack.way.startsWith('abort')
    ? sendAndAbort(session, prepared, attack)
    : sendOne(session, prepared));
  const sentBytes = written();
  session.destroy();
  return { answer, sentBytes };
}

async function attackWith(attack: Attack): Promise<Attacked> {
  const prepared = prepare(attack);
  const from = performance.now();
  const copies = await Promise.all(Array.from({ length: attack.copies }, () => sendCopy(attack, prepared)));
  const answers: Record<string, number> = {};
  for (const { answer } of copies) answers[answer] = (answers[answer] ?? 0) + 1;
  const sentBytes = copies.reduce((sum, copy) => sum + copy.sentBytes, 0);
  return { answers, sentBytes, ms: performance.now() - from };
}

serve(
  {},
  (question) => attackWith(question as Attack),
  () => undefined,
);
