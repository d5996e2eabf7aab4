/**
 * The limit of any server on node:http2: streams of messages that were put together once, of the size and with as many
 * events as Baton's, and one write of shared bytes for each stream and message. It knows no filters, no backpressure
 * and no database.
 */
import { create, toBinary } from '@bufbuild/protobuf';
import { createServer, type ServerHttp2Stream } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { WatchRunsResponseSchema } from '../../gen/baton/v1/job_service_pb.js';
import type { Change } from '../support/delivery.js';
import { serve } from '../support/ipc.js';
import { pause } from '../support/loops.js';
import type { ServerPlace, ServerUse, UseQuestion } from '../support/system.js';
import type { Made } from '../support/tally.js';
import { wallClockMs } from '../support/wall_clock.js';
import { frame } from '../support/wire.js';

export interface RawQuestion {
  readonly changes: number;
  /** A second; 0 for all at once. */
  readonly rate: number;
  readonly bytesPerEvent: number;
  readonly eventsPerMessage: number;
}

const streams = new Set<ServerHttp2Stream>();
let revision = 0;

const server = createServer();
server.on('stream', (stream) => {
  stream.on('error', () => undefined);
  stream.on('close', () => streams.delete(stream));
  stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
  stream.write(frame(new Uint8Array()));
  stream.resume();
  streams.add(stream);
});
await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));

/** A message of so many events, filled up to their usual size. */
function message(events: number, bytesPerEvent: number): Buffer {
  const emptyEvent = 25;
  const repository = 'x'.repeat(Math.max(0, Math.round(bytesPerEvent) - emptyEvent));
  return frame(
    toBinary(
      WatchRunsResponseSchema,
      create(WatchRunsResponseSchema, {
        events: Array.from({ length: events }, () => ({
          revision: BigInt((revision += 1)),
          run: { repository },
        })),
      }),
    ),
  );
}

async function publish({ changes, rate, bytesPerEvent, eventsPerMessage }: RawQuestion): Promise<Change> {
  const made: Made[] = [];
  const fromMs = wallClockMs();
  while (made.length < changes) {
    const wanted = Math.min(Math.max(1, Math.round(eventsPerMessage)), changes - made.length);
    const due = rate === 0 ? changes : ((wallClockMs() - fromMs) * rate) / 1000;
    if (made.length + wanted > due) {
      await pause(1);
      continue;
    }
    const first = revision + 1;
    const atMs = wallClockMs();
    const bytes = message(wanted, bytesPerEvent);
    for (const stream of streams) stream.write(bytes);
    for (let index = 0; index < wanted; index += 1) made.push({ revision: first + index, atMs });
    // Lets the sockets take what was written, as a server that reads its next page does.
    await new Promise((resolve) => setImmediate(resolve));
  }
  return { made, fromMs };
}

function use({ collect }: UseQuestion): ServerUse {
  if (collect === true) globalThis.gc?.();
  const { user, system } = process.cpuUsage();
  return { cpuMicros: user + system, rssBytes: process.memoryUsage().rss };
}

const grpcPort = (server.address() as AddressInfo).port;
serve(
  { grpcPort } satisfies ServerPlace,
  (question) => {
    const asked = question as RawQuestion | UseQuestion;
    return 'changes' in asked ? publish(asked) : use(asked);
  },
  () => undefined,
);
