import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect as http2Connect, constants } from 'node:http2';
import { test } from 'node:test';
import { Code } from '@connectrpc/connect';
import type { CallOptions } from '@grpc/grpc-js';
import { JobService, WatchKind, type WatchRunsResponse } from '../../gen/baton/v1/job_service_pb.js';
import { BatonError } from '../../src/base/errors.js';
import { encodeCounts } from '../../src/rpc/convert/watch.js';
import { Sink } from '../../src/rpc/grpc_stream.js';
import type { TakeMessage, WatchMessage, WatchStream } from '../../src/service/api.js';
import { FakeStream, message, OPENED, sampleEvent } from '../support/rpc_fake.js';
import { fromGrpc, seenError } from '../support/rpc_errors.js';
import { startServers, until, within, type Servers } from '../support/rpc_servers.js';

const { watchRuns } = JobService.method;

/** One client's side of a stream: it reads nothing before `resume`, and goes away at `leave`. */
interface Reader {
  readonly bytes: () => number;
  resume(): void;
  leave(): void;
}

/** Every way to open a watch whose reading the test controls. grpc-js itself reads ahead without bound. */
const READERS: Record<string, (servers: Servers, headers?: Record<string, string>) => Reader> = {
  gRPC: (servers, headers) =>
    readH2(servers.grpc.port, { 'content-type': 'application/grpc', te: 'trailers', ...headers }),
  'connect over h2': (servers, headers) =>
    readH2(servers.http.port, { 'content-type': 'application/connect+proto', ...headers }),
  'connect over HTTP/1.1': (servers) => readH1(servers.http.port),
};

function readH2(port: number, headers: Record<string, string>): Reader {
  const session = http2Connect(`http://127.0.0.1:${port}`);
  const stream = session.request({ ':method': 'POST', ':path': PATH, ...headers });
  let bytes = 0;
  session.on('error', () => {});
  stream.on('error', () => {}).end(EMPTY_FRAME);
  const leave = (): void => {
    stream.close(CANCEL);
    session.close();
  };
  return {
    bytes: () => bytes,
    resume: () => void stream.on('data', (b: Buffer) => (bytes += b.length)),
    leave,
  };
}

function readH1(port: number): Reader {
  const headers = { 'content-type': 'application/connect+proto' };
  const call = httpRequest({ port, path: PATH, method: 'POST', headers });
  let bytes = 0;
  const response = new Promise<IncomingMessage>((resolve) => call.on('response', resolve));
  void response.then((r) => r.on('error', () => {}));
  call.on('error', () => {}).end(EMPTY_FRAME);
  const resume = (): void => void response.then((r) => r.on('data', (b: Buffer) => (bytes += b.length)));
  return { bytes: () => bytes, resume, leave: () => void call.destroy() };
}

const PATH = '/baton.v1.JobService/WatchRuns';
const CANCEL = constants.NGHTTP2_CANCEL;
const EMPTY_FRAME = Buffer.alloc(5);

/** A message of its own each time, of some 32 KiB. */
const big = (): WatchMessage => message({ resumeToken: 'x'.repeat(32 * 1024) });

async function withStream(stream: FakeStream, use: (servers: Servers) => Promise<void>): Promise<void> {
  await using servers = await startServers({ jobs: { watchRuns: () => Promise.resolve(stream) } });
  await use(servers);
}

for (const [name, open] of Object.entries(READERS)) {
  test(`${name}: OPENED arrives at once on a silent stream, and a cancel while idle closes it`, async () => {
    const stream = new FakeStream().push(OPENED);
    await withStream(stream, async (servers) => {
      const reader = open(servers);
      reader.resume();
      await until('OPENED', () => reader.bytes() > 5, 1000);
      await until('waiting for the next message', () => stream.pulls === 2);
      reader.leave();
      await until('closed after a cancel while idle', () => stream.closed, 1000);
      await until('reported', () => servers.reports.length === 1);
      assert.equal(servers.reports[0]?.code, Code.Canceled);
    });
  });

  test(`${name}: a cancel while messages flow closes the stream`, async () => {
    const stream = new FakeStream(() => message());
    await withStream(stream, async (servers) => {
      const reader = open(servers);
      reader.resume();
      await until('some messages', () => reader.bytes() > 2000);
      reader.leave();
      await until('closed after a cancel while flowing', () => stream.closed, 1000);
    });
  });

  test(`${name}: a reader that stops reading stops the pulling, and its cancel closes the stream`, async () => {
    const stream = new FakeStream(big);
    await withStream(stream, async (servers) => {
      const reader = open(servers);
      await until('first pulls', () => stream.pulls > 0);
      const pulls = await settled(() => stream.pulls);
      // What the sockets of both sides and HTTP/2's windows hold is the kernel's; it is the same for all.
      assert.ok(pulls < 400, `${pulls} messages of 32 KiB were pulled for a reader that reads nothing`);
      assert.equal(stream.closed, false);
      reader.leave();
      await until('closed after a cancel while blocked', () => stream.closed, 1000);
      assert.equal(stream.pulls, pulls, 'nothing is pulled for a reader that has gone');
    });
  });
}

test('a blocked stream goes on when its reader does', async () => {
  for (const open of Object.values(READERS)) {
    const stream = new FakeStream();
    for (let i = 0; i < 300; i++) stream.push(big());
    stream.push(undefined);
    await withStream(stream, async (servers) => {
      const reader = open(servers);
      await until('first pulls', () => stream.pulls > 0);
      await settled(() => stream.pulls);
      reader.resume();
      await until('all of it', () => reader.bytes() > 300 * 32 * 1024 && stream.closed);
      reader.leave();
    });
  }
});

test('the gRPC server holds two messages for a reader that reads nothing', async () => {
  const stream = new FakeStream(big);
  await withStream(stream, async (servers) => {
    const reader = READERS['gRPC']!(servers);
    await until('first pulls', () => stream.pulls > 0);
    // HTTP/2's window of 64 KiB is what the first ones went into.
    assert.ok((await settled(() => stream.pulls)) <= 4);
    reader.leave();
  });
});

test('the gRPC server takes two messages that are handed over for a reader that reads nothing', async () => {
  let taken = 0;
  const stream: WatchStream = Object.assign(new FakeStream().push(OPENED), {
    handOver: (take: TakeMessage): Promise<void> => {
      do taken += 1;
      while (take(big()) && taken < 100);
      return Promise.resolve();
    },
  });
  await using servers = await startServers({ jobs: { watchRuns: () => Promise.resolve(stream) } });
  const reader = READERS['gRPC']!(servers);
  await until('a handover', () => taken > 0);
  // HTTP/2's window of 64 KiB is what the first ones went into.
  assert.ok(taken <= 4, `${taken} messages of 32 KiB were taken at once`);
  reader.leave();
});

test('two streams that are given the same message share its bytes', async () => {
  const shared = message({ kind: 'EVENTS', events: [sampleEvent(1n), sampleEvent(2n)], revision: 2n });
  const before = encodeCounts.messages;
  const streams = [new FakeStream(), new FakeStream()];
  for (const stream of streams) stream.push(shared, undefined);
  const pending = streams.slice();
  const open = (): Promise<FakeStream> => Promise.resolve(pending.pop()!);
  await using servers = await startServers({ jobs: { watchRuns: open } });
  const seen = await Promise.all(streams.map(() => readAll(servers)));
  assert.equal(encodeCounts.messages - before, 1);
  assert.deepEqual(seen[0], seen[1]);
  assert.equal(seen[0]?.[0]?.events.length, 2);
});

test('readers that stand still over gRPC share the bytes of a message that waits for them', async () => {
  const [streams, bytes] = [100, 1024 * 1024];
  const shared = message({ resumeToken: 'x'.repeat(bytes) });
  const opened: FakeStream[] = [];
  const watchRunsOf = (): Promise<FakeStream> => {
    const stream = new FakeStream().push(shared);
    opened.push(stream);
    return Promise.resolve(stream);
  };
  await using servers = await startServers({ jobs: { watchRuns: watchRunsOf } });
  const before = process.memoryUsage().arrayBuffers;
  const readers = Array.from({ length: streams }, () => READERS['gRPC']!(servers));
  await until(
    'all to be given it',
    () => opened.length === streams && opened.every(({ pulls }) => pulls > 0),
  );
  await settled(() => process.memoryUsage().arrayBuffers);
  const held = process.memoryUsage().arrayBuffers - before;
  assert.ok(held < (streams * bytes) / 4, `${held} bytes are held for ${streams} readers of one message`);
  for (const reader of readers) reader.leave();
  await until('all to be closed', () => opened.every(({ closed }) => closed));
});

test('a call whose HTTP/2 stream cannot be had is written through grpc-js', async () => {
  const written: Buffer[] = [];
  const call = Object.assign(new EventEmitter(), {
    write: (bytes: Buffer, done: () => void) => {
      written.push(bytes);
      done();
    },
  });
  const sink = new Sink(call as unknown as ConstructorParameters<typeof Sink>[0]);
  assert.equal(sink.write(Buffer.from([0, 0, 0, 0, 2, 7, 8])), true);
  assert.deepEqual(written, [Buffer.from([7, 8])]);
  call.emit('cancelled');
  assert.equal(sink.write(Buffer.alloc(5)), false);
  assert.equal(await sink.room(), false);
});

test('nothing is written behind the status with which grpc-js ends a stream, and the call ends with it', async () => {
  const written: Buffer[] = [];
  const stream = Object.assign(new EventEmitter(), {
    ...{ writableEnded: true, closed: false, destroyed: false, headersSent: true },
    write: (bytes: Buffer) => written.push(bytes),
  });
  const call = Object.assign(new EventEmitter(), { call: { stream } });
  const sink = new Sink(call as unknown as ConstructorParameters<typeof Sink>[0]);
  let room: boolean | undefined;
  assert.equal(sink.write(Buffer.alloc(5)), false);
  const asked = sink.room().then((answer) => (room = answer));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual([written, room], [[], undefined], 'it waits to be told why');
  call.emit('cancelled');
  assert.equal(await within('the end', asked), false);
});

test('an error of the stream arrives after its messages, the same over every protocol', async () => {
  const failing = (): FakeStream =>
    new FakeStream().push(OPENED, new BatonError('SLOW_CONSUMER', 'too slow', { retryDelayMs: 500 }));
  await using servers = await startServers({ jobs: { watchRuns: () => Promise.resolve(failing()) } });
  const expected = {
    ...{ code: Code.ResourceExhausted, message: 'too slow', reason: 'SLOW_CONSUMER', domain: 'baton.v1' },
    ...{ metadata: {}, violations: [], retryDelayMs: 500 },
  };
  const grpc = await within(
    'grpc error',
    readAll(servers).then(() => undefined, fromGrpc),
  );
  assert.deepEqual(grpc, expected);
  for (const [name, jobs] of Object.entries(servers.jobs)) {
    const kinds: WatchKind[] = [];
    const call = async (): Promise<void> => {
      for await (const answer of jobs.watchRuns({})) kinds.push(answer.kind);
    };
    assert.deepEqual(await seenError(within(name, call())), expected, name);
    assert.deepEqual(kinds, [WatchKind.OPENED], name);
  }
});

test('a request that is refused before the stream opens carries its reason', async () => {
  const refuse = (): Promise<never> =>
    Promise.reject(new BatonError('RESUME_TOKEN_FOREIGN', 'of another database'));
  await using servers = await startServers({ jobs: { watchRuns: refuse } });
  const errors = [
    await within(
      'grpc',
      readAll(servers).then(() => undefined, fromGrpc),
    ),
  ];
  for (const jobs of Object.values(servers.jobs)) {
    const call = async (): Promise<void> => {
      for await (const _ of jobs.watchRuns({})) assert.fail('no message was expected');
    };
    errors.push(await seenError(within('connect', call())));
  }
  for (const error of errors) assert.equal(error?.reason, 'RESUME_TOKEN_FOREIGN');
});

test('a stream that opens after its caller has gone is closed', async () => {
  const stream = new FakeStream();
  let [asked, give] = [false, (): void => {}];
  const open = (): Promise<FakeStream> => {
    asked = true;
    return new Promise((resolve) => (give = () => resolve(stream)));
  };
  await using servers = await startServers({ jobs: { watchRuns: open } });
  for (const start of Object.values(READERS)) {
    [asked, stream.closed] = [false, false];
    const reader = start(servers);
    reader.resume();
    await until('asked', () => asked);
    const reported = servers.reports.length;
    reader.leave();
    await until('the caller has gone', () => servers.reports.length > reported);
    give();
    await until('closed though it opened late', () => stream.closed, 1000);
    assert.equal(stream.pulls, 0);
  }
});

test('a deadline ends a stream that waits, with its status', async () => {
  const stream = new FakeStream().push(OPENED);
  await withStream(stream, async (servers) => {
    // So that the connection is there: the deadline has to come while the server has the call.
    await seenError(servers.grpcJs.unary(JobService.method.getRun, { id: 'x' }));
    const error = await within(
      'status',
      readAll(servers, { deadline: Date.now() + 100 }).then(() => undefined, fromGrpc),
    );
    assert.equal(error?.code, Code.DeadlineExceeded);
    await until('closed at its deadline', () => stream.closed, 1000);
  });
});

test('a deadline closes a stream that is blocked in a write', async () => {
  for (const [name, open] of Object.entries(READERS).slice(0, 2)) {
    const stream = new FakeStream(big);
    await withStream(stream, async (servers) => {
      const reader = open(servers, { 'grpc-timeout': '300m', 'connect-timeout-ms': '300' });
      await until(`${name}: closed at its deadline`, () => stream.closed, 2000);
      await until('reported', () => servers.reports.length === 1);
      assert.equal(servers.reports[0]?.code, Code.DeadlineExceeded);
      reader.leave();
    });
  }
});

/** Reads a watch over grpc-js to its end. */
function readAll(servers: Servers, options: CallOptions = {}): Promise<WatchRunsResponse[]> {
  const call = servers.grpcJs.stream(watchRuns, {}, options);
  const seen: WatchRunsResponse[] = [];
  return new Promise((resolve, reject) => {
    call.on('data', (answer: WatchRunsResponse) => seen.push(answer));
    call.on('error', reject).on('end', () => resolve(seen));
  });
}

/** The value once it is the same in so many looks, in each of whose turns the servers could have gone on. */
async function settled(value: () => number): Promise<number> {
  let [last, same] = [value(), 0];
  await until('the value settles', () => {
    if (value() === last) same += 1;
    else [last, same] = [value(), 0];
    return same > 40;
  });
  return last;
}
