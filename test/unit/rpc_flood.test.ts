import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http2';
import { connect, type AddressInfo } from 'node:net';
import { test } from 'node:test';
import { setImmediate as nextLoop } from 'node:timers/promises';
import { toBinary, create } from '@bufbuild/protobuf';
import { ClaimNextRequestSchema, JobService } from '../../gen/baton/v1/job_service_pb.js';
import { ConnectionCounts, countsOf } from '../../src/rpc/connection_counts.js';
import { RPC_LIMITS } from '../../src/rpc/limits.js';
import { StreamGuard } from '../../src/rpc/stream_guard.js';
import { Turns } from '../../src/rpc/turns.js';
import { silent } from '../support/database.js';
import { ManualClock } from '../support/manual_clock.js';
import {
  callHeaders,
  dataFrame,
  FRAME,
  grpcMessage,
  headerBlock,
  openFrame,
  pingFrame,
  rapidResets,
  RawHttp2,
  resetFrame,
} from '../support/raw_http2.js';
import { sampleRun } from '../support/rpc_fake.js';
import { startServers, until, within, type Servers } from '../support/rpc_servers.js';

const PORTS = ['grpc', 'http'] as const;
const CALM_DOWN = 11;
const BLOCK = callHeaders('ClaimNext');
const MESSAGE = grpcMessage(
  toBinary(ClaimNextRequestSchema, create(ClaimNextRequestSchema, { stage: 'run' })),
);
/** What a healthy client waits for at most, and by how much more a busy machine may take. */
const P99_MS = 250;
const SLOW_MACHINE = 10;

/** Servers whose ClaimNext waits until its caller goes, and how many of them wait. */
async function startWaiting(): Promise<{ servers: Servers; waiting: Set<object> }> {
  const waiting = new Set<object>();
  const servers = await startServers({
    jobs: {
      getRun: (id) => Promise.resolve(sampleRun({ id })),
      claimNext: (_request, call) =>
        new Promise((resolve) => {
          waiting.add(call);
          call.signal.addEventListener('abort', () => {
            waiting.delete(call);
            resolve([]);
          });
        }),
    },
  });
  return { servers, waiting };
}

/** Begins this many calls in full, and gives their streams. */
async function beginCalls(raw: RawHttp2, count: number): Promise<number[]> {
  const streams = Array.from({ length: count }, () => raw.nextStream());
  await raw.send(
    ...streams.flatMap((stream) => [openFrame(stream, BLOCK), dataFrame(stream, MESSAGE, true)]),
  );
  return streams;
}

const getRun = (servers: Servers): Promise<unknown> =>
  servers.grpcJs.unary(JobService.method.getRun, { id: 'healthy' });

for (const port of PORTS) {
  test(`${port}: who resets streams at once is told to calm down, and nobody else waits`, async () => {
    const { servers, waiting } = await startWaiting();
    await using _ = servers;
    await getRun(servers);
    const attackers = await Promise.all(Array.from({ length: 20 }, () => RawHttp2.open(servers[port].port)));
    const flood = rapidResets(BLOCK, 2000);
    const attack = Promise.all(attackers.map((raw) => raw.send(flood)));
    const start = performance.now();
    await within('a healthy call', getRun(servers), P99_MS * SLOW_MACHINE);
    console.log(`a healthy call took ${(performance.now() - start).toFixed(0)} ms, wanted: ${P99_MS}`);
    await attack;
    await within('the connections to close', Promise.all(attackers.map(({ closed }) => closed)));
    // A connection that is closed while much has not been read loses what was said last.
    for (const { code } of attackers.flatMap(({ goaways }) => goaways.slice(-1)))
      assert.equal(code, CALM_DOWN);
    assert.equal(waiting.size, 0);
    assert.equal(servers.reports.filter(({ method }) => method.endsWith('ClaimNext')).length, 0);
  });

  test(`${port}: nine hundred calls that wait can be canceled at once`, async () => {
    const { servers, waiting } = await startWaiting();
    await using _ = servers;
    const raw = await RawHttp2.open(servers[port].port);
    const streams = await beginCalls(raw, RPC_LIMITS.resets.burst);
    await until('all calls to wait', () => waiting.size === streams.length, 20_000);
    await raw.send(...streams.map((stream) => resetFrame(stream)));
    await until('all calls to be over', () => waiting.size === 0, 20_000);
    const [last] = await beginCalls(raw, 1);
    await until('one more call to wait', () => waiting.size === 1);
    assert.equal(raw.goaways.length, 0);
    // A few more resets, and the connection ends as a client can understand it.
    await raw.send(resetFrame(last ?? 0));
    for (let sent = 0; sent < RPC_LIMITS.resets.burst && raw.goaways.length === 0; sent += 10) {
      await raw.send(...callsThatAreReset(raw, 10));
      await getRun(servers);
    }
    await within('the connection to close', raw.closed);
    assert.equal(raw.goaways.at(-1)?.code, CALM_DOWN);
    await until('nothing of it to be left', () => waiting.size === 0);
  });

  test(`${port}: calls that are given up before their message is whole end the connection soon`, async () => {
    const { servers, waiting } = await startWaiting();
    await using _ = servers;
    const raw = await RawHttp2.open(servers[port].port);
    const most = 2 * RPC_LIMITS.resetsUnserved.burst;
    let begun = 0;
    while (begun < 2 * most && raw.goaways.length === 0 && !raw.isClosed) {
      const streams = Array.from({ length: 10 }, () => raw.nextStream());
      await raw.send(
        ...streams.flatMap((id) => [openFrame(id, BLOCK), dataFrame(id, MESSAGE.subarray(0, 3))]),
      );
      // All are served, as each connection has its turn.
      await getRun(servers);
      await raw.send(...streams.map((id) => resetFrame(id)));
      begun += streams.length;
    }
    await within('the connection to close', raw.closed);
    assert.ok(begun <= most + 100, `${begun} were begun`);
    assert.equal(raw.goaways.at(-1)?.code, CALM_DOWN);
    assert.equal(waiting.size, 0);
  });

  test(`${port}: a request in too many pieces is refused, and its connection ends`, async () => {
    const { servers, waiting } = await startWaiting();
    await using _ = servers;
    const raw = await RawHttp2.open(servers[port].port);
    const stream = raw.nextStream();
    const head = Buffer.alloc(5);
    head.writeUInt32BE(1_000_000, 1);
    await raw.send(openFrame(stream, BLOCK), dataFrame(stream, head));
    const piece = dataFrame(stream, Buffer.of(0));
    for (let sent = 0; sent < 2 * RPC_LIMITS.requestPieces && !raw.isClosed; sent += 1000)
      await raw.send(Buffer.concat(Array.from({ length: 1000 }, () => piece)));
    await within('the connection to close', raw.closed);
    assert.ok(raw.count(FRAME.headers) > 0, 'it had its answer');
    assert.equal(waiting.size, 0);
    await getRun(servers);
  });

  test(`${port}: a request that never ends is closed when too many do so, the oldest first`, async () => {
    const { servers } = await startWaiting();
    await using _ = servers;
    const first = await RawHttp2.open(servers[port].port);
    const second = await RawHttp2.open(servers[port].port);
    await first.send(openFrame(first.nextStream(), BLOCK));
    await first.send(...openOnly(first, 499));
    await second.send(...openOnly(second, RPC_LIMITS.requestsArriving - 500));
    assert.equal(first.count(FRAME.reset), 0);
    await second.send(...openOnly(second, 10));
    await until('the oldest requests to be closed', () => first.count(FRAME.reset) === 10, 20_000);
    assert.equal(second.count(FRAME.reset), 0);
    await getRun(servers);
    first.close();
    second.close();
  });
}

test('http: streams that are reset in the first bytes of a connection are never begun', async () => {
  const { servers } = await startWaiting();
  await using _ = servers;
  const most = RPC_LIMITS.resetsUnserved.burst;
  const attacker = await RawHttp2.open(servers.http.port, rapidResets(BLOCK, most + 1));
  await within('the connection to close', attacker.closed);
  assert.deepEqual(attacker.goaways, [{ code: CALM_DOWN, lastStream: 0 }]);
  const other = await RawHttp2.open(servers.http.port, rapidResets(BLOCK, most - 10));
  const ping = Buffer.from('all seen');
  await other.send(pingFrame(ping));
  await until('the ping to be answered', () => other.count(FRAME.ping) > 0);
  assert.deepEqual(other.goaways, []);
  other.close();
});

test('grpc: metadata that nobody reads is not kept while a call waits', async () => {
  const { servers, waiting } = await startWaiting();
  await using _ = servers;
  const raw = await RawHttp2.open(servers.grpc.port);
  // Each value is a Buffer for each of its commas, once it is split.
  const commas = ','.repeat(3900);
  const wasteful = Buffer.concat([
    BLOCK,
    headerBlock({ 'a-bin': commas, 'b-bin': commas, 'c-bin': commas, 'd-bin': commas }),
  ]);
  const before = process.memoryUsage();
  const streams = Array.from({ length: 150 }, () => raw.nextStream());
  for (const id of streams) await raw.send(openFrame(id, wasteful), dataFrame(id, MESSAGE, true));
  await until('all calls to wait', () => waiting.size === streams.length, 20_000);
  const after = process.memoryUsage();
  const grown = after.heapUsed + after.external - before.heapUsed - before.external;
  console.log(`150 calls with metadata of 15 kB take ${(grown / 2 ** 20).toFixed(0)} MiB`);
  assert.ok(grown < 150 * 2 ** 20, `${grown} bytes`);
  raw.close();
  await until('nothing of it to be left', () => waiting.size === 0);
});

/** Frames that open streams and never end them. */
function openOnly(raw: RawHttp2, count: number): Buffer[] {
  return Array.from({ length: count }, () => openFrame(raw.nextStream(), BLOCK));
}

/** A few more, since allowances grow again while a test runs. */
function callsThatAreReset(raw: RawHttp2, count: number): Buffer[] {
  return Array.from({ length: count }, () => raw.nextStream()).flatMap((stream) => [
    openFrame(stream, BLOCK),
    dataFrame(stream, MESSAGE, true),
    resetFrame(stream),
  ]);
}

test('gRPC calls on the HTTP port that are aborted leave no line in the log', async () => {
  const { servers, waiting } = await startWaiting();
  await using _ = servers;
  for (let round = 0; round < 2; round += 1) {
    const raw = await RawHttp2.open(servers.http.port);
    // Some of them before their message, which is where connect makes an internal error of it.
    const open = Array.from({ length: RPC_LIMITS.resetsUnserved.burst - 10 }, () => raw.nextStream());
    await raw.send(...open.map((stream) => openFrame(stream, BLOCK)));
    const begun = await beginCalls(raw, 400);
    await until('the calls to wait', () => waiting.size === begun.length, 20_000);
    await raw.send(...[...open, ...begun].map((stream) => resetFrame(stream)));
    await until('the calls to be over', () => waiting.size === 0, 20_000);
    raw.close();
  }
  await until('all to be reported', () => servers.reports.length >= 800);
  assert.deepEqual(
    servers.logs.filter(({ level }) => Number(level) > 20),
    [],
  );
});

test('of a flood of resets Node sees no more than the limit, however much comes in one read', async () => {
  const server = createServer();
  const counts = new ConnectionCounts();
  const guard = new StreamGuard(server, {
    turns: new Turns(),
    counts: countsOf(counts, 'http'),
    log: silent,
  });
  let seen = 0;
  server.on('stream', () => (seen += 1));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const raw = await RawHttp2.open((server.address() as AddressInfo).port);
  await raw.send(rapidResets(BLOCK, 5000));
  await within('the connection to close', raw.closed);
  const most = RPC_LIMITS.resetsUnserved.burst + 1;
  assert.ok(seen >= most && seen < most + 20, `Node saw ${seen}`);
  assert.equal(
    counts.closed.samples('listener').find(({ labels }) => labels['listener'] === 'http')?.value,
    1,
  );
  guard.stop();
  server.close();
});

test('a connection that breaks with many streams open is not one that floods', async () => {
  await using servers = await startServers({ jobs: { getRun: (id) => Promise.resolve(sampleRun({ id })) } });
  for (const port of PORTS) {
    const breaks: ((raw: RawHttp2) => void)[] = [
      () => undefined,
      (raw) => void raw.send(dataFrame(0, MESSAGE)),
      // A header block that is longer than nghttp2 takes.
      (raw) => void raw.send(openFrame(raw.nextStream(), Buffer.concat([BLOCK, Buffer.alloc(16_000, 0xff)]))),
    ];
    // grpc-js keeps a connection that nghttp2 has given up and its client has left for a minute, also when it stops.
    const tried = port === 'http' ? breaks : breaks.slice(0, 1);
    for (const [index, breakIt] of tried.entries()) {
      const raw = await RawHttp2.open(servers[port].port);
      await raw.send(...openOnly(raw, 1500));
      breakIt(raw);
      // Node leaves a connection open that nghttp2 has given up.
      if (index > 0) await until('the server to give up', () => raw.goaways.length > 0 || raw.isClosed);
      raw.close();
      await within('the connection to close', raw.closed);
    }
  }
  await servers.grpcJs.unary(JobService.method.getRun, { id: 'a' });
  assert.deepEqual(
    servers.logs.filter(({ level }) => Number(level) > 20),
    [],
  );
});

test('a request that takes too long to arrive is closed; one that waits for its answer is not', async () => {
  const clock = new ManualClock();
  const server = createServer();
  server.on('stream', (stream) => stream.resume());
  const counts = new ConnectionCounts();
  const guard = new StreamGuard(server, {
    turns: new Turns(),
    counts: countsOf(counts, 'http'),
    log: silent,
    clock,
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const raw = await RawHttp2.open((server.address() as AddressInfo).port);
  await raw.send(openFrame(raw.nextStream(), BLOCK), openFrame(raw.nextStream(), BLOCK, true));
  await until('both to be there', () => guard.arriving === 2);
  await clock.pass(RPC_LIMITS.requestTimeoutMs - 1);
  assert.equal(raw.count(FRAME.reset), 0);
  await clock.pass(RPC_LIMITS.requestSweepMs);
  await until('the one to be closed', () => raw.count(FRAME.reset) === 1);
  assert.equal(guard.arriving, 0);
  guard.stop();
  raw.close();
  server.close();
});

test('HTTP/1.1: a body that does not come to its end in time has one answer, and its connection ends', async (t) => {
  const { servers } = await startWaiting();
  await using _ = servers;
  const socket = connect(servers.http.port, '127.0.0.1');
  await once(socket, 'connect');
  let text = '';
  socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  socket.on('error', () => undefined);
  t.mock.timers.enable({ apis: ['setTimeout'] });
  socket.write(
    'POST /baton.v1.JobService/GetRun HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n' +
      'Content-Length: 100\r\n\r\n{"id":',
  );
  // The timers of the request are set some turns from now, so time passes in steps.
  const stepMs = 100;
  let passedMs = 0;
  for (; !socket.closed && passedMs < 2 * RPC_LIMITS.requestTimeoutMs; passedMs += stepMs) {
    await nextLoop();
    t.mock.timers.tick(stepMs);
  }
  t.mock.timers.reset();
  assert.ok(socket.closed, 'the connection is left open');
  assert.ok(passedMs >= RPC_LIMITS.requestTimeoutMs, `closed after ${passedMs} ms`);
  assert.equal(text.split('HTTP/1.1 ').length - 1, 1, text);
  assert.match(text, /^HTTP\/1\.1 504 .*"code":"deadline_exceeded".*did not arrive in time/s);
});

test('HTTP/1.1: fifty requests in one write are answered in order, thousands end the connection', async () => {
  const { servers } = await startWaiting();
  await using _ = servers;
  const request = (id: number): string => {
    const body = JSON.stringify({ id: `r${id}` });
    return (
      'POST /baton.v1.JobService/GetRun HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n' +
      `Content-Length: ${body.length}\r\n\r\n${body}`
    );
  };
  const send = async (count: number, isDone: (text: string) => boolean): Promise<string> => {
    const socket = connect(servers.http.port, '127.0.0.1');
    let text = '';
    let isClosed = false;
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.on('error', () => undefined).on('close', () => (isClosed = true));
    socket.write(Array.from({ length: count }, (_unused, id) => request(id)).join(''));
    await until(`${count} requests to be done`, () => isClosed || isDone(text));
    socket.destroy();
    return isClosed ? 'closed' : text;
  };
  const answered = await send(50, (text) => text.includes('"id":"r49"'));
  assert.deepEqual(
    [...answered.matchAll(/"id":"r(\d+)"/g)].map((match) => Number(match[1])),
    Array.from({ length: 50 }, (_unused, id) => id),
  );
  assert.equal(await send(20_000, () => false), 'closed');
});

test('each connection has its turn, however much another has sent', async () => {
  const turns = new Turns();
  const done: string[] = [];
  const many = {};
  for (let n = 0; n < 1000; n += 1) turns.add(many, () => done.push('many'));
  const last = new Promise<void>((resolve) => {
    turns.add({}, () => {
      done.push('one');
      resolve();
    });
  });
  await last;
  assert.ok(done.indexOf('one') < RPC_LIMITS.requestsPerTurn, `it came after ${done.indexOf('one')}`);
  await until('all to be done', () => done.length === 1001);
});

test('what waits for its turn is bounded, and a connection with little of it is not refused', () => {
  const turns = new Turns();
  const many = {};
  let taken = 0;
  while (turns.add(many, () => undefined)) taken += 1;
  assert.equal(taken, RPC_LIMITS.requestsWaiting);
  assert.equal(
    turns.add({}, () => undefined),
    true,
  );
});
