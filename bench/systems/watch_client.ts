/**
 * N streams over a few connections, by raw HTTP/2 so that the client costs as little as it can. Says when all are
 * open; told the range of revisions, waits until every stream has them and answers with the latencies.
 */
import { connect, type ClientHttp2Session } from 'node:http2';
import { execute } from '../support/cluster.js';
import { childArgs, serve } from '../support/ipc.js';
import { forEachRevision, Receipts, wallClockMs } from '../support/receipts.js';
import { percentile } from '../support/stats.js';

export interface ClientArgs {
  readonly grpcPort: number;
  readonly databaseUrl: string;
  readonly streams: number;
  /** Streams that read nothing after they are open, on connections of their own. */
  readonly stalled: number;
  /** An upper bound of revisions. */
  readonly revisions: number;
}

export interface ClientQuestion {
  /** Latencies are of the revisions after `from`, up to and with `to`; loss is looked for in all. */
  readonly from: number;
  readonly to: number;
}

export interface ClientResult {
  readonly deliveries: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly lost: number;
  readonly doubled: number;
}

const STREAMS_PER_CONNECTION = 100;
const STALLED_PER_CONNECTION = 10;
/** Streams get this long to receive what was written, then it counts as lost. */
const DELIVERY_TIMEOUT_MS = 60_000;
/** A window as gRPC's own clients grow it, so that one connection of many streams is not throttled by its size. */
const CONNECTION_WINDOW = 32 * 1024 * 1024;

const args = childArgs() as ClientArgs;
const receipts = new Receipts(args.streams, args.revisions);

function open(session: ClientHttp2Session, onMessage: (message: Buffer) => void): { pause(): void } {
  const stream = session.request({
    ':method': 'POST',
    ':path': '/baton.v1.JobService/WatchRuns',
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
  stream.end(Buffer.alloc(5));
  return { pause: () => stream.pause() };
}

function sessions(streams: number, each: number): (index: number) => ClientHttp2Session {
  const made = Array.from({ length: Math.ceil(streams / each) }, () => {
    const session = connect(`http://127.0.0.1:${args.grpcPort}`);
    session.on('connect', () => session.setLocalWindowSize(CONNECTION_WINDOW));
    return session;
  });
  return (index) => made[Math.floor(index / each)]!;
}

async function openAll(): Promise<void> {
  const opened: Promise<void>[] = [];
  const healthy = sessions(args.streams, STREAMS_PER_CONNECTION);
  for (let index = 0; index < args.streams; index += 1) {
    opened.push(
      new Promise((resolve) => {
        open(healthy(index), (message) => {
          resolve();
          const now = wallClockMs();
          forEachRevision(message, (revision) => receipts.note(index, revision, now));
        });
      }),
    );
  }
  const stalled = sessions(args.stalled, STALLED_PER_CONNECTION);
  for (let index = 0; index < args.stalled; index += 1) {
    opened.push(
      new Promise((resolve) => {
        const stream = open(stalled(index), () => {
          stream.pause();
          resolve();
        });
      }),
    );
  }
  await Promise.all(opened);
}

async function finish(question: unknown): Promise<ClientResult> {
  const { from, to } = question as ClientQuestion;
  const deadline = performance.now() + DELIVERY_TIMEOUT_MS;
  while (receipts.reached < to && performance.now() < deadline)
    await new Promise((resolve) => setTimeout(resolve, 50));
  const all = await execute<{ revision: number; atMs: number }>(
    args.databaseUrl,
    `select revision::float8, (extract(epoch from append_time) * 1000)::float8 as "atMs"
     from baton.run_events order by 1`,
  );
  const { sorted } = receipts.latencies(all.filter(({ revision }) => revision > from && revision <= to));
  return {
    ...{
      deliveries: sorted.length,
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
      maxMs: percentile(sorted, 1),
    },
    ...{ lost: receipts.latencies(all).lost, doubled: receipts.doubled },
  };
}

await openAll();
serve({}, finish, () => undefined);
