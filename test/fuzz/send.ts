/** Sends an input and collects what comes back, until it is over or nobody has to wait any longer. */
import { Agent, request as http1Request, type IncomingMessage } from 'node:http';
import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { connect as connectTcp, type Socket } from 'node:net';
import type { HttpInput, Input, Port, SocketInput } from './input.js';

export interface Answer {
  /**
   * `complete`: it has ended well. `closed`: the other side reset or closed. `left`: it may go on for long, and was left.
   * `hangs`: nothing came in time.
   */
  readonly end: 'complete' | 'closed' | 'left' | 'hangs';
  readonly status: number | undefined;
  readonly headers: Readonly<Record<string, string>>;
  readonly trailers: Readonly<Record<string, string>>;
  readonly body: Buffer;
  /** By which a stream of HTTP/2 was reset. */
  readonly resetCode: number;
}

export interface Addresses {
  readonly grpc: number;
  readonly http: number;
}

/** A request that has an end has an answer by then, however busy the machine is. */
export const ANSWER_TIMEOUT_MS = 30_000;
/** How long calls that may wait for work, streams, and requests without an end are left open. */
const PATIENCE_MS = 150;
/** What is beyond is not kept. */
const BODY_MAX_BYTES = 8 * 2 ** 20;
/** Sessions are given up after so many requests, so that their beginnings and ends are met too. */
const SESSION_REQUESTS = 100;

const HOST = '127.0.0.1';

/** One client: sends one input at a time, over connections of its own. */
export class Sender {
  readonly #sessions = new Map<Port, { readonly session: ClientHttp2Session; requests: number }>();
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 1 });

  constructor(private readonly addresses: Addresses) {}

  send(input: Input): Promise<Answer> {
    if (input.kind === 'socket') return sendBytes(this.addresses[input.port], input);
    return input.version === 2 ? this.#http2(input) : this.#http1(input);
  }

  close(): void {
    for (const { session } of this.#sessions.values()) session.destroy();
    this.#sessions.clear();
    this.#agent.destroy();
  }

  #session(port: Port): ClientHttp2Session {
    const open = this.#sessions.get(port);
    if (open !== undefined && !open.session.closed && !open.session.destroyed) {
      open.requests += 1;
      if (open.requests <= SESSION_REQUESTS) return open.session;
    }
    // One that is only closed would wait for its streams.
    open?.session.destroy();
    const session = connectHttp2(`http://${HOST}:${this.addresses[port]}`);
    // Told by the streams in it.
    session.on('error', () => undefined);
    this.#sessions.set(port, { session, requests: 1 });
    return session;
  }

  #http2(input: HttpInput): Promise<Answer> {
    return new Promise((resolve) => {
      const answer = new Collector(input, () => stream.destroy(), resolve);
      const headers = { ':method': input.verb, ':path': input.path, ...copied(input.headers) };
      const stream: ClientHttp2Stream = this.#session(input.port).request(headers, { endStream: false });
      stream.on('response', (head) => answer.head(head[':status'], head));
      stream.on('trailers', (trailers) => answer.trailers(trailers));
      stream.on('data', (chunk: Buffer) => answer.data(chunk));
      stream.on('end', () => answer.ended());
      stream.on('error', () => undefined);
      stream.on('close', () => answer.closed(stream.rstCode ?? 0));
      if (input.body.length > 0) stream.write(input.body);
      if (input.ends) stream.end();
    });
  }

  #http1(input: HttpInput): Promise<Answer> {
    return new Promise((resolve) => {
      const answer = new Collector(input, () => request.destroy(), resolve);
      const request = http1Request({
        ...{ host: HOST, port: this.addresses[input.port], method: input.verb, path: input.path },
        headers: copied(input.headers),
        agent: this.#agent,
      });
      request.on('response', (response: IncomingMessage) => {
        answer.head(response.statusCode, response.headers);
        response.on('data', (chunk: Buffer) => answer.data(chunk));
        response.on('end', () => {
          answer.trailers(response.trailers);
          answer.ended();
        });
        response.on('error', () => undefined);
        response.on('close', () => answer.closed(0));
      });
      request.on('error', () => answer.closed(0));
      if (input.body.length > 0) request.write(input.body);
      if (input.ends) request.end();
    });
  }
}

type Heads = Readonly<Record<string, string | readonly string[] | number | undefined>>;

function copied(headers: HttpInput['headers']): Record<string, string | string[]> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [name, typeof value === 'string' ? value : [...value]]),
  );
}

/** Puts an answer together, and decides when it is enough. */
class Collector {
  #status: number | undefined;
  #headers: Record<string, string> = {};
  #trailers: Record<string, string> = {};
  #resetCode = 0;
  #hasEnded = false;
  #isDone = false;
  readonly #chunks: Buffer[] = [];
  #bytes = 0;
  readonly #timer: NodeJS.Timeout;
  #patience: NodeJS.Timeout | undefined;

  constructor(
    private readonly input: HttpInput,
    private readonly leave: () => void,
    private readonly resolve: (answer: Answer) => void,
  ) {
    this.#timer = setTimeout(() => this.#done('hangs'), ANSWER_TIMEOUT_MS);
    if (!input.ends || input.mayWait) this.#beImpatient();
  }

  #beImpatient(): void {
    this.#patience ??= setTimeout(() => this.#done('left'), PATIENCE_MS);
  }

  head(status: number | undefined, headers: Heads): void {
    this.#status = status;
    this.#headers = flat(headers);
  }

  trailers(trailers: Heads): void {
    this.#trailers = flat(trailers);
  }

  data(chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes <= BODY_MAX_BYTES) this.#chunks.push(chunk);
    // A stream of events may have been asked for by whatever path.
    this.#beImpatient();
  }

  ended(): void {
    this.#hasEnded = true;
    // Over HTTP/1.1 the connection stays; over HTTP/2 `close` follows and brings the code.
    if (this.input.version === 1) this.#done('complete');
  }

  closed(resetCode: number): void {
    this.#resetCode = resetCode;
    this.#done(this.#hasEnded && this.#status !== undefined ? 'complete' : 'closed');
  }

  #done(end: Answer['end']): void {
    if (this.#isDone) return;
    this.#isDone = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#patience);
    if (end === 'left' || end === 'hangs' || !this.input.ends) this.leave();
    this.resolve({
      ...{ end, status: this.#status, headers: this.#headers, trailers: this.#trailers },
      ...{ body: Buffer.concat(this.#chunks), resetCode: this.#resetCode },
    });
  }
}

function flat(headers: Heads): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).map(([name, value]) => [
      name,
      Array.isArray(value) ? value.join(', ') : String(value),
    ]),
  );
}

/** Sends bytes, waits a moment for what comes back, and goes away in one of three ways. */
function sendBytes(port: number, input: SocketInput): Promise<Answer> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    const socket: Socket = connectTcp({ port, host: HOST });
    let left = false;
    const timer = setTimeout(() => {
      left = true;
      if (input.leaving === 'reset') socket.resetAndDestroy();
      else socket.destroy();
    }, PATIENCE_MS);
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearTimeout(timer);
      const body = Buffer.concat(chunks);
      const status = /^HTTP\/1\.1 (\d{3})/.exec(body.toString('latin1', 0, 12))?.[1];
      resolve({
        ...{ end: left ? 'left' : 'closed', status: status === undefined ? undefined : Number(status) },
        ...{ headers: {}, trailers: {}, body, resetCode: 0 },
      });
    });
    for (const chunk of input.chunks) socket.write(chunk);
    if (input.leaving === 'end') socket.end();
    if (input.leaving === 'reset') setImmediate(() => socket.resetAndDestroy());
  });
}
