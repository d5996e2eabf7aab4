/**
 * N streams of changes over a few connections, by raw HTTP/2 so that the client costs as little as it can. Says when
 * all are open; told what was made, waits until every stream has it and answers with what was received.
 */
import {
  connect,
  type ClientHttp2Session,
  type ClientHttp2Stream,
  type IncomingHttpHeaders,
} from 'node:http2';
import { childArgs, serve } from '../support/ipc.js';
import { inBatches, pause } from '../support/loops.js';
import { Tally, type Made } from '../support/tally.js';
import { wallClockMs } from '../support/wall_clock.js';
import { frame, PROTOCOLS } from '../support/wire.js';

export interface StreamClientArgs {
  readonly protocol: keyof typeof PROTOCOLS;
  readonly port: number;
  readonly streams: number;
  readonly connections: number;
  /** Streams that read nothing after they are open, on connections of their own. */
  readonly stalled: number;
}

/** With `made`, wait for it; without, forget what came. */
export interface StreamQuestion {
  readonly made?: readonly Made[];
}

const STALLED_PER_CONNECTION = 10;
/** Streams that are being opened at once. */
const OPENING = 200;
/** Streams get this long to receive what was made, then it counts as lost. */
const DELIVERY_TIMEOUT_MS = 120_000;
/** Windows as gRPC's own clients grow them, so that one connection of many streams is not throttled by its size. */
const CONNECTION_WINDOW = 32 * 1024 * 1024;
const STREAM_WINDOW = 1024 * 1024;

const { protocol: name, port, streams, connections, stalled } = childArgs() as StreamClientArgs;
const protocol = PROTOCOLS[name];
const tally = new Tally(streams);

/** Of streams that have ended: none should. */
const failures: Error[] = [];

/**
 * Resolves with the first message.
 *
 * @param onMessage gets each message, without its prefix
 */
function open(session: ClientHttp2Session, onMessage: (message: Buffer) => void): Promise<ClientHttp2Stream> {
  const stream = session.request({
    ':method': 'POST',
    ':path': protocol.path,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  stream.write(frame(protocol.request));
  if (protocol.ends) stream.end();
  return new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      const error = new Error(`a stream ended: ${why}`);
      failures.push(error);
      reject(error);
    };
    // An error comes in the headers when there was no message before it.
    const status = (headers: IncomingHttpHeaders): void => {
      if (headers['grpc-status'] !== undefined)
        fail(`status ${String(headers['grpc-status'])}, ${String(headers['grpc-message'])}`);
    };
    stream.on('response', status).on('trailers', status);
    stream.on('error', (error) => fail(error.message));
    stream.on('end', () => fail('without a status'));
    let rest: Buffer = Buffer.alloc(0);
    stream.on('data', (chunk: Buffer) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      while (rest.length >= 5) {
        const end = 5 + rest.readUInt32BE(1);
        if (rest.length < end) break;
        resolve(stream);
        onMessage(rest.subarray(5, end));
        rest = rest.subarray(end);
      }
    });
  });
}

function sessions(count: number): (index: number) => ClientHttp2Session {
  const made = Array.from({ length: count }, () => {
    const session = connect(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: STREAM_WINDOW } });
    session.on('connect', () => session.setLocalWindowSize(CONNECTION_WINDOW));
    return session;
  });
  return (index) => made[index % count]!;
}

let begun = 0;

/** Not all at once: clients of their own would not arrive in the same moment either. */
async function openAll(): Promise<void> {
  const healthy = sessions(connections);
  const total = streams + stalled;
  const stalledOn = sessions(Math.ceil(stalled / STALLED_PER_CONNECTION));
  await inBatches({ total, batch: 1, inFlight: OPENING }, async () => {
    const index = begun++;
    if (index < streams) await open(healthy(index), (message) => receive(index, message));
    else (await open(stalledOn(index), () => undefined)).pause();
    return 1;
  });
}

function receive(stream: number, message: Buffer): void {
  const now = wallClockMs();
  let events = 0;
  protocol.forEachRevision(message, (revision) => {
    events += 1;
    tally.event(stream, revision, now);
  });
  if (events > 0) tally.message(message.length, now);
}

async function answer(question: unknown): Promise<object> {
  const { made } = question as StreamQuestion;
  if (made === undefined) {
    tally.reset();
    return {};
  }
  const deadline = performance.now() + DELIVERY_TIMEOUT_MS;
  while (!tally.has(made.length) && failures.length === 0 && performance.now() < deadline) await pause(10);
  if (failures[0] !== undefined) throw failures[0];
  return tally.received(made);
}

await openAll();
serve({}, answer, () => undefined);
