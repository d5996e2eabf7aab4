import { LIMITS } from '../base/limits.js';

/** Bounds of the transports alone; what a request may hold is in `base/limits.ts`. */
export const RPC_LIMITS = {
  /** Open calls on one connection. Clients queue what is above it, so it only has to stop a runaway one. */
  streamsPerConnection: 10_000,
  /** Open connections of one listener at most, see `connectionLimit`. Each takes about 25 KiB. */
  connections: 10_000,
  /** Requests that are begun in one turn of the event loop, one of each connection after the other. */
  requestsPerTurn: 32,
  /** HTTP/2 connections that are taken over in one turn, each with all that was read of it: up to a thousand streams. */
  sessionsPerTurn: 1,
  /** Requests of one listener that wait to be begun; beyond it a connection may have this many of them. */
  requestsWaiting: 10_000,
  requestsWaitingShare: 100,
  /** Requests on an HTTP/1.1 connection that have no answer yet. Clients send one; each takes 13 KB. */
  requestsPipelined: 100,
  /**
   * Streams that a connection may reset before they were begun, which is in the same read or in a stall of this server, or
   * before their request was whole. Only who attacks does that for long.
   */
  resetsUnserved: { burst: 100, perSecond: 50 },
  /**
   * All streams that a connection may reset, so that hundreds of calls that wait can be canceled at once. nghttp2 has a
   * limit too, of 1,000 and 33 a second, which says less to a client and must not come first.
   */
  resets: { burst: 900, perSecond: 30 },
  /** Requests of all connections of a listener that have not arrived as a whole; beyond it the oldest are closed. */
  requestsArriving: 10_000,
  /** How often late requests over HTTP/2 are looked for. */
  requestSweepMs: 10_000,
  /** Bytes of one stream that are written and not yet taken by the connection, before its loop stops pulling. */
  streamPendingBytes: 32 * 1024,
  /** A connection that has not shown which protocol it speaks by then is closed. */
  protocolTimeoutMs: 10_000,
  /** Time to receive the headers of an HTTP/1.1 request, and the whole of any request. Answers may take any time. */
  headersTimeoutMs: 20_000,
  requestTimeoutMs: 120_000,
  /** Longer than the idle time of common load balancers (60 s), so that they close first and no request is lost. */
  keepAliveTimeoutMs: 75_000,
  /**
   * When a client that has closed its side is asked whether it is still there. What it is given within the round trip
   * behind the first may be lost unseen; within the last a client has answered that is not further away than this.
   */
  halfClosedProbesMs: [0, 20, 100, 500],
  /** HTTP/2 PING: how often, and how long an answer may take before the connection counts as dead. */
  pingIntervalMs: 60_000,
  pingTimeoutMs: 20_000,
  /** How long `drain` waits for calls in flight before it breaks them. */
  drainTimeoutMs: 10_000,
  /**
   * Bytes of an error's details that go into HTTP/2 trailers. Clients refuse trailers over a limit of theirs, 8 KiB
   * in Java and C++, and then show no error at all; base64 adds a third, and the message stands beside it.
   */
  trailerDetailsBytes: 4 * 1024,
  messageChars: 1024,
  /** Errors of the items of a batch, beside the runs of the others; those behind it are short. */
  itemErrorBytes: 512 * 1024,
  shortMessageChars: 200,
  metadataChars: 512,
  /**
   * Nesting of messages. A level of a Struct is two (Value in Struct), so that the service's own limit of JSON levels
   * is met first and named in its error.
   */
  messageDepth: 3 * LIMITS.jsonDepth + 32,
  /** The message of a Connect GET, which stands in the URL. */
  getMessageBytes: 16 * 1024,
  /** Requests up to this are decoded at once; larger ones take turns, see `Intake`. */
  lightRequestBytes: 32 * 1024,
  /** Larger than most requests but batches. Of these, so many bytes may be on their way through the service. */
  hugeBytes: 2 * 1024 * 1024,
  hugeRequestBytes: 4 * 1024 * 1024,
  /** What a byte of JSON counts there. */
  jsonWeight: 5,
  /** So many bytes of pages may be read and written at once; those up to the first of these need no room. */
  lightAnswerBytes: 256 * 1024,
  heavyAnswerBytes: 4 * 1024 * 1024,
  /** What a run counts there that comes without its payload. */
  answerRunBytes: 1024,
  /** Bytes of requests that are being received or wait for their turn. */
  heldRequestBytes: 64 * 1024 * 1024,
  /** When that is full, a request that comes more slowly makes room for others. */
  requestBytesPerSecond: 32 * 1024,
  /**
   * Reads, chunks or DATA frames of a request: in all, where the largest comes in 13,750 by packets of 1,220 bytes; and of
   * one whose pieces have less than so many bytes on average. A connection with a request beyond that ends, after the
   * time for its answer to get out.
   */
  requestPieces: 32_768,
  requestCrumbs: 4096,
  crumbBytes: 64,
  floodAnswerMs: 5,
  /** The longest timer that Node takes, 24.8 days; it fires at once for more. */
  timerMs: 2 ** 31 - 1,
} as const;
