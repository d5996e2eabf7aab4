import { LIMITS } from '../base/limits.js';

/** Bounds of the transports alone; what a request may hold is in `base/limits.ts`. */
export const RPC_LIMITS = {
  /** Open calls on one connection. Clients queue what is above it, so it only has to stop a runaway one. */
  streamsPerConnection: 10_000,
  /** Bytes of one stream that are written and not yet taken by the connection, before its loop stops pulling. */
  streamPendingBytes: 32 * 1024,
  /** A connection that has not shown which protocol it speaks by then is closed. */
  protocolTimeoutMs: 10_000,
  /** Time to receive the headers of an HTTP/1.1 request, and the whole request. Answers may take any time. */
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
  /** Larger than any request but a batch. Of these, so many bytes may be on their way through the service. */
  hugeBytes: 4 * 1024 * 1024,
  hugeRequestBytes: 16 * 1024 * 1024,
  /** Bytes of requests that are being received or wait for their turn. */
  heldRequestBytes: 256 * 1024 * 1024,
  /** The longest timer that Node takes, 24.8 days; it fires at once for more. */
  timerMs: 2 ** 31 - 1,
} as const;
