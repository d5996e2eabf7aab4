import { connect, type ClientHttp2Session, type ClientHttp2Stream } from 'node:http2';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import {
  WatchKind,
  WatchRunsRequestSchema,
  WatchRunsResponseSchema,
  type WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import { waitFor } from '../support/wait.js';
import type { ChaosServer } from '../support/chaos_servers.js';

const PATH = '/baton.v1.JobService/WatchRuns';

/** gRPC frames: a byte of flags, four of length, the message. */
class Frames {
  #rest: Buffer = Buffer.alloc(0);

  take(chunk: Buffer): WatchRunsResponse[] {
    let rest = Buffer.concat([this.#rest, chunk]);
    const messages: WatchRunsResponse[] = [];
    while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
      const end = 5 + rest.readUInt32BE(1);
      messages.push(fromBinary(WatchRunsResponseSchema, rest.subarray(5, end)));
      rest = rest.subarray(end);
    }
    this.#rest = rest;
    return messages;
  }
}

/** A stream on a raw HTTP/2 session, so that reading can be stopped for good without any library reading ahead. */
class RawStream {
  readonly #stream: ClientHttp2Stream;
  readonly #frames = new Frames();
  revision = 0n;
  events = 0;
  messages = 0;
  ended = false;
  lastAt = performance.now();
  longestSilenceMs = 0;

  constructor(session: ClientHttp2Session, after: string, payload: boolean) {
    this.#stream = session.request({
      ':method': 'POST',
      ':path': PATH,
      'content-type': 'application/grpc',
      te: 'trailers',
    });
    this.#stream.on('error', () => undefined).on('close', () => (this.ended = true));
    this.#stream.on('data', (chunk: Buffer) => {
      for (const message of this.#frames.take(chunk)) this.#take(message);
    });
    const body = toBinary(
      WatchRunsRequestSchema,
      create(WatchRunsRequestSchema, { after, includePayload: payload, bookmarkInterval: { seconds: 1n } }),
    );
    const head = Buffer.alloc(5);
    head.writeUInt32BE(body.length, 1);
    this.#stream.end(Buffer.concat([head, body]));
  }

  #take(message: WatchRunsResponse): void {
    const now = performance.now();
    if (this.messages > 0) this.longestSilenceMs = Math.max(this.longestSilenceMs, now - this.lastAt);
    this.lastAt = now;
    this.messages += 1;
    this.events += message.events.length;
    if (message.kind !== WatchKind.UNSPECIFIED) this.revision = message.revision;
  }

  stall(): void {
    this.#stream.pause();
  }

  close(): void {
    this.#stream.close();
  }
}

export interface StallReport {
  readonly shared: boolean;
  /** What a healthy stream beside the stalled one got meanwhile, and the longest time it got nothing. */
  readonly healthyEvents: number;
  readonly longestSilenceMs: number;
  readonly residentBeforeMiB: number;
  readonly residentAfterMiB: number;
  /** Bytes that the server says it holds for one stream on the average; undefined when it could not be asked. */
  readonly heldPerStream: number | undefined;
  readonly stalledStreams: number;
}

/**
 * Streams that are not read, with the whole history to send, on connections of their own or on the one of a healthy
 * stream; the healthy one has to go on.
 */
export async function stall(
  server: ChaosServer,
  shared: boolean,
  durationMs: number,
  rest: (ms: number) => Promise<void>,
): Promise<StallReport> {
  const sessions: ClientHttp2Session[] = [];
  const session = (): ClientHttp2Session => {
    // The window of the whole connection is small by default; a stream that is not read must not use it up.
    const opened = connect(`http://${server.grpcAddress}`, { settings: { initialWindowSize: 64 * 1024 } });
    opened.on('error', () => undefined);
    opened.on('connect', () => opened.setLocalWindowSize(64 * 1024 * 1024));
    sessions.push(opened);
    return opened;
  };
  try {
    const first = session();
    const healthy = new RawStream(first, '', false);
    await waitFor(() => healthy.messages > 0 || healthy.ended, 'a healthy stream to open', 5000);
    const residentBeforeMiB = await server.residentMiB();
    const stalled = Array.from(
      { length: 8 },
      () => new RawStream(shared ? first : session(), 'oldest', true),
    );
    await waitFor(
      () => stalled.every((stream) => stream.messages > 0 || stream.ended),
      'the streams to open',
      5000,
    );
    for (const stream of stalled) stream.stall();
    const before = healthy.events;
    healthy.longestSilenceMs = 0;
    await rest(durationMs);
    return {
      shared,
      healthyEvents: healthy.events - before,
      longestSilenceMs: Math.round(Math.max(healthy.longestSilenceMs, performance.now() - healthy.lastAt)),
      residentBeforeMiB,
      residentAfterMiB: await server.residentMiB(),
      heldPerStream: await heldPerStream(server),
      stalledStreams: stalled.filter((stream) => !stream.ended).length,
    };
  } finally {
    for (const opened of sessions) opened.destroy();
  }
}

/** From the server's own gauges. It may be paused or away just now: then there is nothing to say. */
async function heldPerStream(server: ChaosServer): Promise<number | undefined> {
  try {
    const response = await fetch(`${server.httpUrl}/metrics`, { signal: AbortSignal.timeout(2000) });
    const text = await response.text();
    const sum = (name: string): number =>
      [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].reduce(
        (total, [, value]) => total + Number(value),
        0,
      );
    const streams = sum('baton_streams');
    return streams === 0 ? undefined : sum('baton_stream_held_bytes') / streams;
  } catch {
    return undefined;
  }
}
