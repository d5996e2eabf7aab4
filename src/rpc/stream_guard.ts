import {
  constants,
  type Http2Server,
  type Http2Session,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { systemClock, type Clock, type Timer } from '../base/clock.js';
import type { Logger } from '../base/log.js';
import { TokenBucket } from '../base/token_bucket.js';
import type { ListenerCounts } from './connection_counts.js';
import { RPC_LIMITS } from './limits.js';
import type { Turns } from './turns.js';

export interface StreamGuardOptions {
  readonly turns: Turns;
  readonly counts: ListenerCounts;
  readonly log: Logger;
  /** The answer to a request that is not served, in headers alone, or undefined. Default undefined for any. */
  readonly refusal?: (headers: IncomingHttpHeaders) => OutgoingHttpHeaders | undefined;
  /** What its servers are given of the headers of a request. Default all. */
  readonly select?: (headers: IncomingHttpHeaders) => IncomingHttpHeaders;
  readonly clock?: Clock;
}

/** An empty SETTINGS, with which each side begins, and a GOAWAY: a length of 8, stream 0, no stream taken, code 11. */
const ENHANCE_YOUR_CALM = Buffer.from('000000040000000000000008070000000000000000000000000b', 'hex');

/** The listeners of a server's `stream` event; what comes behind the headers is passed on as it is. */
type Serve = (stream: ServerHttp2Stream, headers: IncomingHttpHeaders, ...rest: unknown[]) => void;

interface Opened {
  readonly stream: ServerHttp2Stream;
  readonly openedAt: number;
  isServed: boolean;
  /** Its client has given it up before its request was whole. */
  isCut: boolean;
}

/** What a connection may still reset. */
interface Allowance {
  /** Of those that were not served, or not whole. */
  readonly unserved: TokenBucket;
  readonly resets: TokenBucket;
}

/**
 * Stands between an HTTP/2 server and those who serve its requests, so that what one connection does with its streams
 * hurts no other:
 *
 *     opened ──▶ waits for its turn ──▶ served ──▶ request whole ──▶ closed
 *                 └──── reset: `resetsUnserved` ────┘    └─ reset: `resets`
 *                              └──▶ over its limit: the connection ends with ENHANCE_YOUR_CALM
 *
 * A stream is served in a turn of its own, a few in each turn of the event loop, one connection after the other. A stream
 * that is reset before (rapid reset, CVE-2023-44487) has cost what Node itself does for it and no more, and after a few
 * hundred of them its connection is gone.
 *
 * A request that does not come to its end holds memory for nothing: it is closed after `requestTimeoutMs`, or sooner
 * when too many are under way; the oldest goes first, which under such an attack is never an honest one.
 *
 * nghttp2 has a limit for resets of its own (Node has no setting for it before 24), but then leaves the connection open
 * and deaf; `resets` is not above it, so that the connection ends and its client learns so.
 */
export class StreamGuard {
  readonly #log: Logger;
  readonly #servers: readonly Serve[];
  readonly #turns: Turns;
  readonly #counts: ListenerCounts;
  readonly #allowances = new WeakMap<Http2Session, Allowance>();
  /** Over their limit, and gone as soon as what was read of them is through. */
  readonly #condemned = new WeakSet<Http2Session>();
  /** Streams whose requests may not be whole, the oldest first. */
  readonly #arriving = new Set<Opened>();
  readonly #refusal: StreamGuardOptions['refusal'];
  readonly #clock: Clock;
  #sweep: Timer;

  constructor(
    server: Http2Server,
    { turns, counts, log, refusal, select = all, clock = systemClock }: StreamGuardOptions,
  ) {
    this.#turns = turns;
    this.#counts = counts;
    this.#log = log;
    this.#refusal = refusal;
    this.#clock = clock;
    this.#servers = server.listeners('stream') as Serve[];
    server.removeAllListeners('stream');
    server.on('stream', (stream, headers, ...rest) => this.#open(stream, select(headers), rest));
    this.#sweep = clock.after(RPC_LIMITS.requestSweepMs, () => this.#closeLate());
  }

  /** Streams whose requests may not be whole. */
  get arriving(): number {
    return this.#arriving.size;
  }

  /** Ends a connection that is no session yet. */
  turnAway(socket: Socket): void {
    this.#tellOf(socket);
    socket.on('error', () => {});
    socket.end(ENHANCE_YOUR_CALM, () => socket.destroy());
  }

  stop(): void {
    this.#sweep.cancel();
  }

  #open(stream: ServerHttp2Stream, headers: IncomingHttpHeaders, rest: readonly unknown[]): void {
    // Node takes a stream's error without a listener for a crash; what follows from one is done on `close`.
    stream.on('error', () => {});
    const { session } = stream;
    // It went away while its stream was being told of.
    if (session === undefined || this.#condemned.has(session)) return;
    const opened: Opened = { stream, openedAt: this.#clock.now(), isServed: false, isCut: false };
    // On `close` a request that was cut off looks like one that has ended.
    stream.once('aborted', () => (opened.isCut = !stream.endAfterHeaders && !stream.readableEnded));
    stream.once('close', () => this.#closed(session, opened));
    this.#arriving.add(opened);
    if (this.#arriving.size > RPC_LIMITS.requestsArriving) this.#closeOldest();
    if (!this.#turns.add(session, () => this.#serve(opened, headers, rest)))
      closeLater(stream, constants.NGHTTP2_REFUSED_STREAM);
  }

  #serve(opened: Opened, headers: IncomingHttpHeaders, rest: readonly unknown[]): void {
    const { stream } = opened;
    const { session } = stream;
    if (session === undefined || this.#condemned.has(session) || stream.destroyed || stream.closed) return;
    opened.isServed = true;
    const refusal = this.#refusal?.(headers);
    if (refusal !== undefined) {
      stream.respond(refusal, { endStream: true });
      stream.resume();
      return;
    }
    for (const serve of this.#servers) serve(stream, headers, ...rest);
    // The end of a request without a body may have been told of while it waited, and is told of only once.
    if (stream.readableEnded) stream.emit('end');
  }

  #closed(session: Http2Session, opened: Opened): void {
    this.#arriving.delete(opened);
    const { rstCode } = opened.stream;
    // With a connection that ends, however it does, all its streams end.
    if (rstCode === constants.NGHTTP2_NO_ERROR || session.closed || session.destroyed) return;
    if (this.#condemned.has(session)) return;
    const now = this.#clock.now();
    const { unserved, resets } = this.#allowanceOf(session, now);
    if (resets.take(now) && ((opened.isServed && !opened.isCut) || unserved.take(now))) return;
    this.#calmDown(session);
  }

  #calmDown(session: Http2Session): void {
    this.#condemned.add(session);
    // It has none any more where it ends by itself just now.
    this.#tellOf(session.socket);
    // What is left of the read, and of those that follow before the connection is gone: nghttp2 refuses streams above a
    // limit as soon as it is submitted, and Node never sees them.
    if (!session.destroyed) session.settings({ maxConcurrentStreams: 0 });
    afterRead(() => {
      // Without an error Node says NO_ERROR, whatever the code.
      const error = new Error('too many streams were reset');
      if (!session.destroyed) session.destroy(error, constants.NGHTTP2_ENHANCE_YOUR_CALM);
    });
  }

  #tellOf(socket: Socket | undefined): void {
    this.#counts.connectionClosed();
    this.#log.info({ peer: socket?.remoteAddress }, 'a connection was closed: it resets its streams');
  }

  #allowanceOf(session: Http2Session, now: number): Allowance {
    let allowance = this.#allowances.get(session);
    if (allowance === undefined) {
      allowance = {
        unserved: new TokenBucket(RPC_LIMITS.resetsUnserved, now),
        resets: new TokenBucket(RPC_LIMITS.resets, now),
      };
      this.#allowances.set(session, allowance);
    }
    return allowance;
  }

  #closeLate(): void {
    this.#sweep = this.#clock.after(RPC_LIMITS.requestSweepMs, () => this.#closeLate());
    const openedBefore = this.#clock.now() - RPC_LIMITS.requestTimeoutMs;
    for (const opened of this.#arriving) {
      if (opened.openedAt > openedBefore) return;
      this.#closeIfArriving(opened);
    }
  }

  #closeOldest(): void {
    for (const opened of this.#arriving) return this.#closeIfArriving(opened);
  }

  #closeIfArriving(opened: Opened): void {
    this.#arriving.delete(opened);
    const { stream } = opened;
    if (stream.destroyed || stream.closed || isWhole(stream)) return;
    this.#counts.requestClosed();
    this.#log.info('a request was closed: it did not come to its end');
    closeLater(stream, constants.NGHTTP2_CANCEL);
  }
}

const all = (headers: IncomingHttpHeaders): IncomingHttpHeaders => headers;

/**
 * Streams are told of, and their ends, while nghttp2 reads. A reset or a GOAWAY at that moment makes Node write, which
 * frees what the read is busy with: Node 20.20 dies of it under a flood.
 */
function afterRead(task: () => void): void {
  setImmediate(task);
}

function closeLater(stream: ServerHttp2Stream, code: number): void {
  afterRead(() => {
    if (!stream.destroyed) stream.close(code);
  });
}

/** Whether the client has said that its request ends here. */
function isWhole(stream: ServerHttp2Stream): boolean {
  const { state } = stream.state;
  return (
    state !== constants.NGHTTP2_STREAM_STATE_OPEN &&
    state !== constants.NGHTTP2_STREAM_STATE_HALF_CLOSED_LOCAL
  );
}
