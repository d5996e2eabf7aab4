import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Agent, get as httpGet, type IncomingMessage } from 'node:http';
import { connect as http2Connect, type ClientHttp2Session } from 'node:http2';
import { connect as tcpConnect, type Socket } from 'node:net';
import { test } from 'node:test';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { createLogger } from '../../src/base/log.js';
import { startGrpcServer } from '../../src/rpc/grpc.js';
import { createHandlers } from '../../src/rpc/handlers.js';
import { startHttpServer } from '../../src/rpc/http.js';
import type { Run } from '../../src/run/run.js';
import { fakeJobs, fakePipelines, FakeStream, message, OPENED, sampleRun } from '../support/rpc_fake.js';
import { startServers, until, within, type Servers } from '../support/rpc_servers.js';

test('a plain POST of JSON creates a run, and defaults are spelt out in the answer', async () => {
  const asked: unknown[] = [];
  await using servers = await startServers({
    jobs: {
      createRun: (request) => {
        asked.push(request);
        return Promise.resolve(sampleRun({ attempt: 0, labels: {} }));
      },
      claimNext: () => Promise.resolve([]),
    },
  });
  const created = await post(
    servers,
    'CreateRun',
    '{"repository":"r","input":{"a":1},"scheduleTime":"2026-01-01T00:00:00Z"}',
  );
  const { run } = (await created.json()) as { run: Record<string, unknown> };
  assert.deepEqual([run['state'], run['attempt'], run['labels']], ['RUN_STATE_ACTIVE', 0, {}]);
  assert.deepEqual(asked, [
    {
      ...{ pipeline: '', repository: 'r', labels: {}, input: { a: 1 }, priority: 0 },
      ...{ scheduleTime: new Date('2026-01-01T00:00:00Z'), concurrencyKey: '', maxAttempts: 0 },
      ...{ requestId: '', traceParent: '' },
    },
  ]);
  assert.deepEqual(await (await post(servers, 'ClaimNext', '{"stage":"run"}')).json(), { claims: [] });
});

test('a read may be a GET', async () => {
  await using servers = await startServers({ jobs: { getRun: (id) => Promise.resolve(sampleRun({ id })) } });
  const query = new URLSearchParams({ connect: 'v1', encoding: 'json', message: '{"id":"abc"}' });
  const response = await fetch(`${servers.url}/baton.v1.JobService/GetRun?${query.toString()}`);
  assert.equal(((await response.json()) as { run: { id: string } }).run.id, 'abc');
});

test('health, readiness, further routes and what is not there', async () => {
  let ready = { ok: true, detail: 'ready' };
  await using servers = await startServers({
    http: {
      ready: () => Promise.resolve(ready),
      routes: (request, response) => {
        if (request.url !== '/metrics') return false;
        response.end('metrics');
        return true;
      },
    },
  });
  const get = async (path: string): Promise<[number, string]> => {
    const response = await fetch(servers.url + path);
    return [response.status, (await response.text()).trim()];
  };
  assert.deepEqual(await get('/healthz'), [200, 'ok']);
  assert.deepEqual(await get('/readyz'), [200, 'ready']);
  ready = { ok: false, detail: 'no database' };
  assert.deepEqual(await get('/readyz'), [503, 'no database']);
  assert.deepEqual(await get('/metrics'), [200, 'metrics']);
  const [status, body] = await get('/nowhere');
  assert.equal(status, 404);
  assert.match(body, /"code":"unimplemented".*nowhere.*NOT_IMPLEMENTED/s);
});

test('a readiness check that throws is not ready, and says no more', async () => {
  const ready = (): Promise<never> => Promise.reject(new Error('secret'));
  await using servers = await startServers({ http: { ready } });
  const response = await fetch(`${servers.url}/readyz`);
  assert.deepEqual([response.status, await response.text()], [503, 'not ready\n']);
});

test('HTTP/2 and HTTP/1.1 are told apart, also when the first bytes come one by one', async () => {
  await using servers = await startServers();
  const session = http2Connect(servers.url, { createConnection: () => slowly(servers.http.port) });
  assert.equal(await within('h2', statusOverH2(session, '/healthz')), 200);
  session.close();
  const socket = slowly(servers.http.port);
  socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
  assert.match(await within('h1', textOf(socket)), /^HTTP\/1\.1 200 OK[\s\S]*ok\n/);
  // Begins like the preface of HTTP/2 and is none. Its last byte decides: a server that answers and closes earlier, as
  // Node 24 does at `PRI /`, breaks the pipe of a client that still writes.
  const other = slowly(servers.http.port);
  other.write('PRI * HTTP/2.0\r\n\r\nX');
  assert.match(await within('not quite h2', textOf(other)), /^HTTP\/1\.1 400/);
});

test('a connection that stays silent, or stops within the preface, is closed', async () => {
  await using servers = await startServers({ http: { protocolTimeoutMs: 100 } });
  for (const text of ['', 'PRI * HTTP/2.0\r\n']) {
    const socket = tcpConnect(servers.http.port, '127.0.0.1');
    socket.on('error', () => {}).write(text);
    await within(`closed after ${JSON.stringify(text)}`, once(socket.resume(), 'close'), 2000);
  }
  const gone = tcpConnect(servers.http.port, '127.0.0.1', () => gone.end('PR'));
  await within('closed after the end', once(gone.resume(), 'close'), 2000);
  assert.equal((await fetch(`${servers.url}/healthz`)).status, 200);
});

test('a client that has closed its side still gets its answer', async () => {
  await using servers = await startServers();
  const socket = tcpConnect(servers.http.port, '127.0.0.1');
  socket.end('GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
  assert.match(await within('answer', textOf(socket)), /200 OK/);
});

test('drain lets a call in flight finish, refuses new connections and ends idle ones', async () => {
  const answers: (() => void)[] = [];
  const getRun = (): Promise<Run> => new Promise((resolve) => answers.push(() => resolve(sampleRun())));
  await using servers = await startServers({ jobs: { getRun } });
  const idle = await keepAliveGet(servers, '/healthz');
  const idleH2 = http2Connect(servers.url);
  await statusOverH2(idleH2, '/healthz');
  const calls = [
    servers.grpcJs.unary(JobService.method.getRun, { id: 'x' }),
    post(servers, 'GetRun', '{"id":"x"}'),
    servers.jobs['connect binary']!.getRun({ id: 'x' }),
  ];
  await until('all calls have arrived', () => answers.length === calls.length);
  const drained = Promise.all([servers.http.drain(), servers.grpc.drain()]);
  await within('idle connections are ended', Promise.all([idle.closed, once(idleH2, 'close')]), 2000);
  await assert.rejects(fetch(`${servers.url}/healthz`));
  for (const answer of answers) answer();
  const [, response] = await within('all answers', Promise.all(calls));
  assert.equal((response as Response).status, 200);
  await within('drained', drained, 3000);
});

test('drain waits for a stream that its service ends, and breaks one that does not end in time', async () => {
  const streams = [0, 1, 2].map(() => new FakeStream().push(OPENED));
  const pending = streams.slice();
  const watchRuns = (): Promise<FakeStream> => Promise.resolve(pending.pop()!);
  await using servers = await startServers({
    jobs: { watchRuns },
    grpc: { drainTimeoutMs: 300 },
    http: { drainTimeoutMs: 300 },
  });
  const good = servers.jobs['connect json']!.watchRuns({})[Symbol.asyncIterator]();
  await good.next();
  const bad = servers.jobs['connect binary']!.watchRuns({})[Symbol.asyncIterator]();
  await bad.next();
  const grpc = servers.grpcJs.stream(JobService.method.watchRuns, {});
  const broken = new Promise((resolve) => grpc.on('error', resolve));
  await within('opened', once(grpc, 'data'));
  const drained = Promise.all([servers.http.drain(), servers.grpc.drain()]);
  streams[2]!.push(message(), undefined);
  assert.equal((await within('the last message', good.next())).value?.revision, 1n);
  assert.equal((await within('a good end', good.next())).done, true);
  await within('broken', Promise.all([assert.rejects(bad.next()), broken]));
  await within('drained', drained);
  await until('all closed', () => streams.every((stream) => stream.closed));
});

test('close ends a drain that waits', async () => {
  let arrived = false;
  const getRun = (): Promise<Run> => {
    arrived = true;
    return new Promise(() => {});
  };
  await using servers = await startServers({ jobs: { getRun } });
  const call = assert.rejects(post(servers, 'GetRun', '{"id":"x"}'));
  await until('the call has arrived', () => arrived);
  const drained = servers.http.drain();
  await within('closed', servers.http.close());
  await within('drained', drained);
  await call;
});

test('a port in use is an error of the start', async () => {
  await using servers = await startServers();
  const common = { handlers: createHandlers(fakeJobs(), fakePipelines()), log: createLogger('silent') };
  const ready = (): Promise<{ ok: boolean; detail: string }> => Promise.resolve({ ok: true, detail: '' });
  const at = ({ port }: { port: number }): { host: string; port: number } => ({ host: '127.0.0.1', port });
  await assert.rejects(startHttpServer({ ...common, ready, listen: at(servers.http) }), /EADDRINUSE/);
  await assert.rejects(startGrpcServer({ ...common, listen: at(servers.grpc) }), /EADDRINUSE/);
});

function post({ url }: Servers, method: string, body: string): Promise<Response> {
  const headers = { 'content-type': 'application/json' };
  return fetch(`${url}/baton.v1.JobService/${method}`, { method: 'POST', body, headers });
}

/** A socket that sends every byte on its own. */
function slowly(port: number): Socket {
  const socket = tcpConnect({ port, host: '127.0.0.1', noDelay: true });
  const write = socket.write.bind(socket);
  let last: Promise<unknown> = once(socket, 'connect');
  socket.write = (data: Buffer | string, ...rest: unknown[]): boolean => {
    for (const byte of Buffer.from(data as Buffer).subarray(0, 40)) {
      last = last.then(
        () => new Promise((resolve) => write(Buffer.from([byte]), () => setImmediate(resolve))),
      );
    }
    void last.then(() => write(Buffer.from(data as Buffer).subarray(40)));
    const done = rest.at(-1);
    if (typeof done === 'function') void last.then(() => (done as () => void)());
    return true;
  };
  return socket;
}

async function textOf(socket: Socket): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).toString();
}

function statusOverH2(session: ClientHttp2Session, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':path': path });
    stream.on('response', (headers) => resolve(Number(headers[':status']))).on('error', reject);
    stream.resume();
  });
}

/** Makes a request on a connection that is kept alive; resolves to nothing but the promise of its close. */
async function keepAliveGet({ http }: Servers, path: string): Promise<{ closed: Promise<unknown> }> {
  const agent = new Agent({ keepAlive: true });
  const response = await new Promise<IncomingMessage>((resolve) =>
    httpGet({ port: http.port, path, agent }, resolve),
  );
  const closed = once(response.socket, 'close').finally(() => agent.destroy());
  await once(response.resume(), 'end');
  return { closed };
}
