/**
 * N streams of changes over a few connections, by raw HTTP/2 so that the client costs as little as it can. Says when
 * all are open; told what was made, waits until every stream has it and answers with what was received.
 */
import { connect, type ClientHttp2Session } from 'node:http2';
import { childArgs, serve } from '../support/ipc.js';
import { pause } from '../support/loops.js';
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
/** Streams get this long to receive what was made, then it counts as lost. */
const DELIVERY_TIMEOUT_MS = 120_000;
/** Windows as gRPC's own clients grow them, so that one connection of many streams is not throttled by its size. */
const CONNECTION_WINDOW = 32 * 1024 * 1024;
const STREAM_WINDOW = 1024 * 1024;

const { protocol: name, port, streams, connections, stalled } = childArgs() as StreamClientArgs;
const protocol = PROTOCOLS[name];
const tally = new Tally(streams);

/** @param onMessage gets each message, without its prefix */
function open(session: ClientHttp2Session, onMessage: (message: Buffer) => void): { pause(): void } {
  const stream = session.request({
    ':method': 'POST',
    ':path': protocol.path,
    'content-type': 'application/grpc',
    te: 'trailers',
  });
  let rest: Buffer = Buffer.alloc(0);
  stream.on('data', (chunk: Buffer) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    while (rest.length >= 5) {
      const end = 5 + rest.readUInt32BE(1);
      if (rest.length < end) break;
      onMessage(rest.subarray(5, end));
      rest = rest.subarray(end);
    }
  });
  stream.on('error', (error) => process.stderr.write(`a stream failed: ${error.message}\n`));
  stream.write(frame(protocol.request));
  if (protocol.ends) stream.end();
  return { pause: () => stream.pause() };
}

function sessions(count: number): (index: number) => ClientHttp2Session {
  const made = Array.from({ length: count }, () => {
    const session = connect(`http://127.0.0.1:${port}`, { settings: { initialWindowSize: STREAM_WINDOW } });
    session.on('connect', () => session.setLocalWindowSize(CONNECTION_WINDOW));
    return session;
  });
  return (index) => made[index % count]!;
}

async function openAll(): Promise<void> {
  const opened: Promise<void>[] = [];
  const healthy = sessions(connections);
  for (let index = 0; index < streams; index += 1) {
    opened.push(
      new Promise((resolve) => {
        open(healthy(index), (message) => {
          resolve();
          const now = wallClockMs();
          let events = 0;
          protocol.forEachRevision(message, (revision) => {
            events += 1;
            tally.event(index, revision, now);
          });
          if (events > 0) tally.message(message.length, now);
        });
      }),
    );
  }
  const stalledOn = sessions(Math.ceil(stalled / STALLED_PER_CONNECTION));
  for (let index = 0; index < stalled; index += 1) {
    opened.push(
      new Promise((resolve) => {
        const stream = open(stalledOn(index), () => {
          stream.pause();
          resolve();
        });
      }),
    );
  }
  await Promise.all(opened);
}

async function answer(question: unknown): Promise<object> {
  const { made } = question as StreamQuestion;
  if (made === undefined) {
    tally.reset();
    return {};
  }
  const deadline = performance.now() + DELIVERY_TIMEOUT_MS;
  while (!tally.has(made.length) && performance.now() < deadline) await pause(10);
  return tally.received(made);
}

await openAll();
serve({}, answer, () => undefined);
