/** What real clients and proxies do that the libraries in the other tests do not. */
import assert from 'node:assert/strict';
import { connect as http2Connect, constants, type IncomingHttpHeaders } from 'node:http2';
import { request as httpRequest } from 'node:http';
import { connect as tcpConnect } from 'node:net';
import { test } from 'node:test';
import { status as GrpcCode } from '@grpc/grpc-js';
import { RPC_LIMITS } from '../../src/rpc/limits.js';
import { FakeStream, message, OPENED, sampleRun } from '../support/rpc_fake.js';
import { GrpcJsClient } from '../support/rpc_grpc_client.js';
import { startServers, until, within, type Servers } from '../support/rpc_servers.js';

const JOBS = '/baton.v1.JobService';

interface H2Answer {
  readonly headers: IncomingHttpHeaders;
  /** Whether the response is headers alone. */
  readonly ended: boolean;
  readonly bytes: number;
}

/** Headers and flags as they came; the stream is left as soon as there are headers. */
function overH2(
  { url }: Pick<Servers, 'url'>,
  headers: Record<string, string>,
  body: Buffer,
): Promise<H2Answer> {
  const session = http2Connect(url);
  return new Promise<H2Answer>((resolve, reject) => {
    const sent = session.request({ ':method': 'POST', ...headers }, { endStream: false });
    sent.on('response', (seen, flags) => {
      const ended = (flags & constants.NGHTTP2_FLAG_END_STREAM) !== 0;
      resolve({ headers: seen, ended, bytes: sent.readableLength });
    });
    sent.on('error', reject).end(body);
  }).finally(() => session.destroy());
}

const EMPTY_MESSAGE = Buffer.alloc(5);

test('an unknown method over gRPC is told in headers alone, over gRPC-Web too', async () => {
  await using servers = await startServers();
  for (const path of [`${JOBS}/Nothing`, '/baton.v1.NoService/GetRun', '/x'])
    for (const type of ['application/grpc', 'application/grpc+proto', 'application/grpc-web+proto']) {
      const headers = { ':path': path, 'content-type': type, te: 'trailers' };
      const answer = await overH2(servers, headers, EMPTY_MESSAGE);
      assert.equal(answer.ended, true, `${path} ${type}: a frame follows the headers`);
      assert.deepEqual(
        [answer.headers[':status'], answer.headers['grpc-status'], answer.headers['content-type']],
        [200, '12', type],
      );
      assert.ok(answer.headers['grpc-status-details-bin'] !== undefined);
    }
});

test('a gRPC client takes an unknown method for UNIMPLEMENTED on either port', async () => {
  await using servers = await startServers();
  for (const { port } of [servers.grpc, servers.http]) {
    const client = new GrpcJsClient(`127.0.0.1:${port}`);
    for (const path of [`${JOBS}/Nothing`, '/baton.v1.NoService/GetRun'])
      await assert.rejects(client.raw(path, Buffer.alloc(0)), { code: GrpcCode.UNIMPLEMENTED }, path);
    client.close();
  }
});

function openStream(): FakeStream {
  return new FakeStream().push(OPENED);
}

test('every stream tells proxies to hold nothing back, and no answer is for a cache', async () => {
  const streams: FakeStream[] = [];
  const watchRuns = (): Promise<FakeStream> => {
    streams.push(openStream());
    return Promise.resolve(streams.at(-1)!);
  };
  await using servers = await startServers({
    jobs: { watchRuns, getRun: () => Promise.resolve(sampleRun()) },
  });
  const rows: readonly (readonly [type: string, body: string])[] = [
    ['application/grpc', '\0\0\0\0\0'],
    ['application/grpc-web+proto', '\0\0\0\0\0'],
    ['application/connect+proto', '\0\0\0\0\0'],
    ['application/connect+json', '\0\0\0\0\x02{}'],
  ];
  for (const [type, body] of rows) {
    const headers = { ':path': `${JOBS}/WatchRuns`, 'content-type': type };
    const answer = await within(type, overH2(servers, headers, Buffer.from(body)));
    assert.equal(answer.headers['x-accel-buffering'], 'no', type);
    assert.equal(answer.headers['cache-control'], 'no-store, no-transform', type);
  }
  for (const accept of ['*/*', 'text/event-stream']) {
    const answer = await overH2(
      servers,
      { ':path': '/v1/events', ':method': 'GET', accept },
      Buffer.alloc(0),
    );
    assert.equal(answer.headers['x-accel-buffering'], 'no', accept);
    assert.equal(answer.headers['cache-control'], 'no-store, no-transform', accept);
  }
  await until('all streams are closed', () => streams.length === 6 && streams.every(({ closed }) => closed));
  for (const path of [
    `${JOBS}/GetRun?encoding=json&message=%7B%7D`,
    '/healthz',
    '/nothing',
    `${JOBS}/CreateRun`,
  ]) {
    const answer = await fetch(servers.url + path);
    assert.equal(answer.headers.get('cache-control'), 'no-store', path);
    await answer.arrayBuffer();
  }
});

interface HalfClosed {
  /** What has come so far. */
  readonly text: () => string;
  /** All that comes until the server closes its side. */
  readonly all: Promise<string>;
}

/** Sends bytes and closes the client's side behind them. */
function halfClosed({ http }: Servers, request: string): HalfClosed {
  const socket = tcpConnect(http.port, '127.0.0.1');
  socket.end(request);
  let seen = '';
  const all = new Promise<string>((resolve, reject) => {
    socket.on('data', (chunk: Buffer) => (seen += chunk.toString())).on('error', reject);
    socket.on('end', () => resolve(seen));
  });
  return { text: () => seen, all };
}

const PROBES = RPC_LIMITS.halfClosedProbesMs.length;

function posts(method: string, type: string, body: string, more = ''): string {
  const head = `POST ${JOBS}/${method} HTTP/1.1\r\nHost: localhost\r\n${more}Content-Type: ${type}\r\n`;
  return `${head}Content-Length: ${body.length}\r\n\r\n${body}`;
}

const FINAL = /^HTTP\/1\.1 200 OK\r\n/;

test('a client that closes its side after its request gets the answer, however long it takes', async () => {
  const answers: (() => void)[] = [];
  const getRun = (): Promise<ReturnType<typeof sampleRun>> =>
    new Promise((resolve) => answers.push(() => resolve(sampleRun())));
  await using servers = await startServers({ jobs: { getRun } });
  for (const more of ['', 'Connection: close\r\n']) {
    const request = posts('GetRun', 'application/json', '{"id":"a"}', more);
    const { all, text: soFar } = halfClosed(servers, request);
    await until('the call has arrived', () => answers.length === 1);
    // What comes before the answer are interim responses, to be passed over.
    const probed = 'HTTP/1.1 100 Continue\r\n\r\n'.repeat(PROBES);
    await until('all probes', () => soFar() === probed);
    answers.pop()!();
    const text = (await within('the answer', all)).slice(probed.length);
    assert.match(text, FINAL);
    assert.match(text, /\{"run":\{"id":".*\}$/);
  }
  assert.deepEqual(
    servers.reports.map(({ code }) => code),
    [0, 0],
  );
});

/** The body of a response in chunks. A size may begin with zeros. */
function unchunk(body: string): string {
  let [rest, text] = [body, ''];
  for (;;) {
    const [line = '', size = ''] = /^([\da-f]+)\r\n/.exec(rest) ?? [];
    assert.notEqual(line, '', `no chunk at ${JSON.stringify(rest.slice(0, 20))}`);
    const length = parseInt(size, 16);
    if (length === 0) return text;
    text += rest.slice(line.length, line.length + length);
    rest = rest.slice(line.length + length + 2);
  }
}

test('and a stream goes on to a client that has closed its side', async () => {
  const streams: FakeStream[] = [];
  const watchRuns = (): Promise<FakeStream> => {
    streams.push(openStream());
    return Promise.resolve(streams.at(-1)!);
  };
  await using servers = await startServers({ jobs: { watchRuns } });
  const requests = {
    connect: posts('WatchRuns', 'application/connect+json', '\0\0\0\0\x02{}'),
    events: 'GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n',
  };
  for (const [name, request] of Object.entries(requests)) {
    const { all, text: soFar } = halfClosed(servers, request);
    const probes = (): number => {
      const [first = '', zeros = ''] =
        /^(?:HTTP\/1\.1 100 Continue\r\n\r\n)*|(?<=\r\n)0+$/g[Symbol.match](soFar()) ?? [];
      return first.length / 'HTTP/1.1 100 Continue\r\n\r\n'.length + zeros.length;
    };
    await until('all probes', () => probes() === PROBES);
    streams.at(-1)!.push(message({ revision: 7n }), undefined);
    const text = await within(name, all);
    const body = unchunk(text.slice(text.indexOf('\r\n\r\n', text.indexOf(' 200 OK')) + 4));
    assert.match(body, /OPENED[\s\S]*"revision":"7"/, name);
    assert.ok(streams.at(-1)!.closed);
  }
});

/** Ten times of what is promised, since the machine may be busy. */
const GONE_MS = 10_000;

test('a client that has gone is found out, although it closes in the same way', async () => {
  const streams: FakeStream[] = [];
  let waiting = 0;
  const never = (
    _: unknown,
    { signal }: { readonly signal: { readonly aborted: boolean } },
  ): Promise<never> => {
    waiting += 1;
    return new Promise((_resolve, reject) => {
      const timer = setInterval(() => {
        if (!signal.aborted) return;
        clearInterval(timer);
        waiting -= 1;
        reject(new Error('aborted'));
      }, 1);
    });
  };
  const watchRuns = (): Promise<FakeStream> => {
    streams.push(openStream());
    return Promise.resolve(streams.at(-1)!);
  };
  await using servers = await startServers({ jobs: { claimNext: never, watchRuns } });
  const gone = async (request: string, isOver: () => boolean, hasBegun: () => boolean): Promise<void> => {
    const socket = tcpConnect(servers.http.port, '127.0.0.1');
    socket.on('error', () => undefined).on('data', () => undefined);
    socket.write(request);
    await until('it has begun', hasBegun);
    const from = performance.now();
    socket.destroy();
    await until('it is over', isOver, GONE_MS);
    console.log(`found out after ${Math.round(performance.now() - from)} ms; promised: within 1000`);
  };
  const noneWaits = (): boolean => waiting === 0;
  const oneWaits = (): boolean => waiting === 1;
  await gone(posts('ClaimNext', 'application/json', '{"stage":"run"}'), noneWaits, oneWaits);
  const old = posts('ClaimNext', 'application/json', '{"stage":"run"}').replace('HTTP/1.1', 'HTTP/1.0');
  await gone(old, noneWaits, oneWaits);
  const isClosed = (): boolean => streams.at(-1)?.closed === true;
  const isPulled = (): boolean => streams.at(-1)?.pulls === 2 && !isClosed();
  await gone(posts('WatchRuns', 'application/connect+json', '\0\0\0\0\x02{}'), isClosed, isPulled);
  await gone('GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n', isClosed, isPulled);
});

function raw({ http }: Servers, text: string): Promise<string> {
  const socket = tcpConnect(http.port, '127.0.0.1');
  socket.write(text);
  return new Promise((resolve, reject) => {
    let all = '';
    socket.on('data', (chunk: Buffer) => {
      all += chunk.toString();
      if (/\r\n\r\n[\s\S]*[}\n]$/.test(all)) resolve(all);
    });
    socket.on('close', () => resolve(all)).on('error', reject);
  }).finally(() => socket.destroy()) as Promise<string>;
}

test('a Host that is missing is a bad request over HTTP/1.1; HTTP/1.0 may do without', async () => {
  await using servers = await startServers({ jobs: { getRun: () => Promise.resolve(sampleRun()) } });
  const body = '{"id":"a"}';
  const rest = `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const post = (version: string, host: string): Promise<string> =>
    within(host, raw(servers, `POST ${JOBS}/GetRun HTTP/${version}\r\n${host}${rest}`));
  assert.match(
    await post('1.1', ''),
    /^HTTP\/1\.1 400 .*"invalid_argument","message":"the Host header is missing"/s,
  );
  assert.match(await post('1.1', 'Host:\r\n'), /^HTTP\/1\.1 400 .*malformed/s);
  assert.match(await post('1.1', 'Host: localhost\r\nHost: evil.test\r\n'), /^HTTP\/1\.1 400 .*malformed/s);
  assert.match(await post('1.1', 'Host: localhost\r\n'), /^HTTP\/1\.1 200 .*"run"/s);
  assert.match(await post('1.0', ''), /^HTTP\/1\.1 200 .*"run"/s);
  assert.match(await raw(servers, 'GET /healthz HTTP/1.0\r\n\r\n'), /^HTTP\/1\.1 200 .*ok/s);
});

test('a Connect GET is refused with all that is wrong with its query', async () => {
  let asked = 0;
  const getRun = (): Promise<ReturnType<typeof sampleRun>> =>
    Promise.resolve(sampleRun({ attempt: asked++ }));
  await using servers = await startServers({ jobs: { getRun } });
  const get = async (query: string, method = 'GetRun'): Promise<{ status: number; fields: unknown[] }> => {
    const response = await fetch(`${servers.url}${JOBS}/${method}?${query}`);
    const { details = [] } = (await response.json()) as {
      details?: { debug?: { fieldViolations?: { field: string }[] } }[];
    };
    const violations = details.flatMap(({ debug }) => debug?.fieldViolations ?? []);
    return { status: response.status, fields: violations.map(({ field }) => field) };
  };
  const id = 'encoding=json&message=%7B%22id%22%3A%22a%22%7D';
  const rows: readonly (readonly [query: string, fields: readonly string[]])[] = [
    ['', ['encoding', 'message']],
    ['connect=v1&encoding=json', ['message']],
    ['encoding=proto', ['message']],
    ['message=%7B%7D', ['encoding']],
    ['encoding=xml&message=%7B%7D', ['encoding']],
    ['encoding=json&message=!!&base64=1', ['message']],
    ['encoding=proto&message=CgFhA&base64=1', ['message']],
    ['encoding=proto&message=Cg+h&base64=1', ['message']],
    [`${id}&base64=yes`, ['base64']],
    [`${id}&compression=gzip`, ['compression']],
    [`${id}&compression=zip`, ['compression']],
    [`${id}&message=%7B%7D`, ['message']],
    [`${id}&encoding=proto&compression=&compression=br`, ['encoding', 'compression']],
    [`${id}&connect=v2`, ['connect']],
  ];
  for (const [query, fields] of rows) assert.deepEqual(await get(query), { status: 400, fields }, query);
  assert.deepEqual((await get('encoding=json&message=%7B')).status, 400);
  assert.equal((await get(id, 'CreateRun')).status, 405);
  assert.equal((await get('', 'CreateRun')).status, 405);
  assert.equal(asked, 0);
  const good = [id, `connect=v1&${id}&compression=identity&base64=`, 'encoding=json&base64=1&message=e30'];
  for (const query of good) assert.equal((await get(query)).status, 200, query);
  const binary = await fetch(`${servers.url}${JOBS}/GetRun?encoding=proto&message=CgFh&base64=1`);
  assert.deepEqual([binary.status, binary.headers.get('content-type')], [200, 'application/proto']);
});

test('what is sent behind a refused request is read away, over HTTP/2 too', async () => {
  await using servers = await startServers();
  const session = http2Connect(servers.url);
  const sent = session.request({ ':method': 'POST', ':path': '/nothing' }, { endStream: false });
  const closed = new Promise((resolve) => sent.on('close', resolve));
  sent.resume().end(Buffer.alloc(1024 * 1024));
  await within('the stream to end', closed);
  session.close();
  const status = await new Promise<number>((resolve, reject) => {
    const post = httpRequest({ port: servers.http.port, path: '/nothing', method: 'POST' }, (response) => {
      response.resume().on('end', () => resolve(response.statusCode ?? 0));
    });
    post.on('error', reject).end(Buffer.alloc(1024 * 1024));
  });
  assert.equal(status, 404);
});

test('a request without a body is answered, also when its end comes in a frame of its own', async () => {
  await using servers = await startServers({ jobs: { getRun: (id) => Promise.resolve(sampleRun({ id })) } });
  const path = { ':path': `${JOBS}/GetRun` };
  const connect = { ...path, 'content-type': 'application/proto' };
  assert.equal(
    (await within('the answer', overH2(servers, connect, Buffer.alloc(0)))).headers[':status'],
    200,
  );
  // A call without a message is an error of the caller's, and told.
  const grpc = { ...path, 'content-type': 'application/grpc', te: 'trailers' };
  const url = `http://127.0.0.1:${servers.grpc.port}`;
  const { headers } = await within('the status', overH2({ url }, grpc, Buffer.alloc(0)));
  assert.equal(headers['grpc-status'], String(GrpcCode.UNIMPLEMENTED));
});
