/** The gate for browsers: its decisions by table, and what stands on the wire. */
import assert from 'node:assert/strict';
import { connect as http2Connect, type OutgoingHttpHeaders } from 'node:http2';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { test } from 'node:test';
import { judge, type GateRequest, type GateRules } from '../../src/rpc/gate.js';
import type { NodeRequest, NodeResponse } from '../../src/rpc/node_http.js';
import { FakeStream, OPENED, sampleRun } from '../support/rpc_fake.js';
import { startServers, type Servers, type ServersOptions } from '../support/rpc_servers.js';

const RULES: GateRules = {
  hosts: new Set(['baton.example.com', 'baton']),
  origins: new Set(['https://app.example.com', 'http://localhost:5173']),
};
const NONE: GateRules = { hosts: new Set(), origins: new Set() };
const RPC = '/baton.v1.JobService/CreateRun';

type Headers = Readonly<Record<string, string>>;

function ask(headers: Headers | readonly string[], more: Partial<GateRequest> = {}, rules = RULES): string {
  const rawHeaders = Array.isArray(headers) ? (headers as readonly string[]) : Object.entries(headers).flat();
  const verdict = judge(rules, { method: 'POST', path: RPC, httpVersion: '1.1', ...more, rawHeaders });
  if (verdict.kind === 'refuse') return String(verdict.status);
  return verdict.origin === undefined ? verdict.kind : `${verdict.kind} ${verdict.origin}`;
}

const HOSTS: Readonly<Record<string, readonly string[]>> = {
  pass: [
    ...['localhost', 'localhost:8080', 'LocalHost:8080', 'localhost.', 'localhost.:8080', 'a.localhost:1'],
    ...['127.0.0.1', '127.0.0.1:8080', '127.0.0.1:', '127.0.0.1.', '10.1.2.3:80', '0.0.0.0:8080'],
    ...['[::1]', '[::1]:8080', '[FE80::1]:8080', '[::ffff:127.0.0.1]:1'],
    ...['baton.example.com', 'Baton.Example.COM:443', 'baton.example.com.', 'baton:8080'],
  ],
  421: [
    ...['evil.test', 'evil.test:8080', 'x.baton.example.com', 'baton.example.com.evil.test', 'example.com'],
    ...['localhost.evil.test', 'evillocalhost', 'localhost..', '127.0.0.1.evil.test', '127.0.0.1.nip.io'],
    // Browsers write addresses in full; whoever asks a DNS server for these may be given anything.
    ...['127.1', '2130706433', '0x7f.1', '256.0.0.1'],
  ],
  400: [
    ...['', ' ', 'me@localhost', 'localhost@evil.test', 'localhost/x', 'localhost:80:80', 'localhost:x'],
    ...['::1', '[::1', '[localhost]', '[::1]x', 'localhost, evil.test', 'localhost evil', '\uff4cocalhost'],
  ],
};

test('a request has to name this server by one of its names', () => {
  for (const [expected, hosts] of Object.entries(HOSTS))
    for (const host of hosts) assert.equal(ask({ Host: host }), expected, host);
  assert.equal(ask({ host: 'baton' }, {}, NONE), '421');
  assert.equal(ask({}), '400');
  assert.equal(ask({}, { httpVersion: '2.0' }), '400');
  assert.equal(ask({}, { httpVersion: '1.0' }), 'pass');
  assert.equal(ask({ Host: 'evil.test' }, { httpVersion: '1.0' }), '421');
  assert.equal(ask(['Host', 'localhost', 'hOST', 'evil.test']), '400');
  assert.equal(ask(['Host', 'localhost', 'Host', 'localhost']), '400');
});

test('over HTTP/2 the authority counts, and a Host beside it', () => {
  const version = { httpVersion: '2.0' };
  assert.equal(ask({ ':authority': 'localhost:8080' }, version), 'pass');
  assert.equal(ask({ host: 'localhost:8080' }, version), 'pass');
  assert.equal(ask({ ':authority': 'evil.test' }, version), '421');
  assert.equal(ask({ ':authority': 'localhost', host: 'evil.test' }, version), '421');
  assert.equal(ask({ ':authority': 'evil.test', host: 'localhost' }, version), '421');
  assert.equal(ask({ ':authority': 'me@localhost' }, version), '400');
});

const HERE = { host: 'localhost:8080' };

test('a page of another origin is let in by its name only', () => {
  const rows: readonly (readonly [Headers, string])[] = [
    [{}, 'pass'],
    [{ 'sec-fetch-site': 'none' }, 'pass'],
    [{ 'sec-fetch-site': 'same-origin', origin: 'http://localhost:8080' }, 'pass'],
    // Behind a proxy that gives the server another Host than the browser sees.
    [{ 'sec-fetch-site': 'same-origin', origin: 'https://jobs.example.com' }, 'pass'],
    // Another port of localhost is the same site.
    [{ 'sec-fetch-site': 'same-site', origin: 'http://localhost:3000' }, '403'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'https://evil.test' }, '403'],
    [{ 'sec-fetch-site': 'cross-site' }, '403'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'null' }, '403'],
    [{ 'sec-fetch-site': '' }, '403'],
    [{ 'sec-fetch-site': 'Same-Origin' }, '403'],
    [{ 'sec-fetch-site': 'same-origin, cross-site' }, '403'],
    [{ 'sec-fetch-site': 'something-new' }, '403'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'https://app.example.com' }, 'pass https://app.example.com'],
    [{ 'sec-fetch-site': 'same-site', origin: 'http://localhost:5173' }, 'pass http://localhost:5173'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'https://app.example.com.evil.test' }, '403'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'http://app.example.com' }, '403'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'https://app.example.com:8443' }, '403'],
    [{ 'sec-fetch-site': 'cross-site', origin: 'https://app.example.com/' }, '403'],
  ];
  for (const [headers, expected] of rows)
    assert.equal(ask({ ...HERE, ...headers }), expected, JSON.stringify(headers));
  assert.equal(ask(['host', 'localhost', 'sec-fetch-site', 'none', 'Sec-Fetch-Site', 'cross-site']), '403');
  assert.equal(ask(['host', 'localhost', 'origin', 'https://app.example.com', 'origin', 'null']), '403');
});

test('where a browser sends no fetch metadata, Origin decides', () => {
  const rows: readonly (readonly [host: string, origin: string, expected: string])[] = [
    ['localhost:8080', 'http://localhost:8080', 'pass'],
    ['localhost:8080', 'http://localhost:3000', '403'],
    ['localhost:8080', 'http://localhost', '403'],
    ['10.0.0.5:8080', 'http://10.0.0.5:8080', 'pass'],
    ['[::1]:8080', 'http://[::1]:8080', 'pass'],
    ['127.0.0.1:80', 'http://127.0.0.1', 'pass'],
    ['baton.example.com', 'https://baton.example.com', 'pass'],
    ['baton.example.com:443', 'https://baton.example.com', 'pass'],
    ['baton.example.com', 'https://evil.test', '403'],
    ['baton.example.com', 'null', '403'],
    ['baton.example.com', '', '403'],
    ['baton.example.com', 'https://', '403'],
    ['baton.example.com', 'file://baton.example.com', '403'],
    ['localhost:99999', 'http://localhost:99999', '400'],
    ['baton.example.com', 'https://app.example.com', 'pass https://app.example.com'],
  ];
  for (const [host, origin, expected] of rows)
    assert.equal(ask({ host, origin }), expected, `${host} ${origin}`);
});

test('a link from elsewhere opens the page, and nothing that holds data', () => {
  const link = {
    ...HERE,
    'sec-fetch-site': 'cross-site',
    'sec-fetch-mode': 'navigate',
    'sec-fetch-dest': 'document',
  };
  const get = (path: string, method = 'GET'): Partial<GateRequest> => ({ path, method });
  assert.equal(ask(link, get('/')), 'pass');
  assert.equal(ask(link, get('/', 'HEAD')), 'pass');
  assert.equal(ask(link, get('/', 'POST')), '403');
  for (const path of ['/v1/events', '/metrics', RPC, '/baton.v1.JobService/GetRun', '//', '/index.html'])
    assert.equal(ask(link, get(path)), '403', path);
  assert.equal(ask({ ...link, 'sec-fetch-dest': 'iframe' }, get('/')), '403');
  assert.equal(ask({ ...link, 'sec-fetch-dest': 'image', 'sec-fetch-mode': 'no-cors' }, get('/')), '403');
  assert.equal(ask({ ...link, host: 'evil.test' }, get('/')), '421');
});

test('load balancers may look whether the server is well under any name', () => {
  for (const path of ['/healthz', '/readyz']) {
    for (const headers of [{}, { host: 'evil.test' }, { host: '' }, { ...HERE, origin: 'https://evil.test' }])
      assert.equal(ask(headers, { path, method: 'GET' }), 'pass');
    const allowed = { host: 'x', origin: 'https://app.example.com' };
    assert.equal(ask(allowed, { path, method: 'GET' }), 'pass https://app.example.com');
  }
  assert.equal(ask({ host: 'evil.test' }, { path: '/metrics', method: 'GET' }), '421');
});

test('a browser that asks before its request is answered for the origins that may', () => {
  const options = { method: 'OPTIONS' };
  const asks = { ...HERE, 'access-control-request-method': 'POST', 'sec-fetch-site': 'cross-site' };
  const app = 'https://app.example.com';
  assert.equal(ask({ ...asks, origin: app }, options), `preflight ${app}`);
  assert.equal(ask({ ...asks, origin: app, host: 'evil.test' }, options), '421');
  assert.equal(ask({ ...asks, origin: 'https://evil.test' }, options), '403');
  assert.equal(ask({ ...HERE, origin: app }, options), `pass ${app}`);
});

interface Answer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
}

function h1(
  port: number,
  path: string,
  method: string,
  headers: OutgoingHttpHeaders,
  body = '',
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = httpRequest({ port, path, method, headers: headers as IncomingHttpHeaders }, (response) => {
      let text = '';
      response.on('data', (chunk: Buffer) => (text += chunk.toString()));
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text }),
      );
    });
    sent.on('error', reject).end(body);
  });
}

function h2(
  port: number,
  path: string,
  method: string,
  headers: OutgoingHttpHeaders,
  body = '',
): Promise<Answer> {
  const session = http2Connect(`http://127.0.0.1:${port}`);
  return new Promise<Answer>((resolve, reject) => {
    const { host, ...rest } = headers;
    const names = { ':path': path, ':method': method, ':authority': String(host) };
    const sent = session.request({ ...names, ...rest }, { endStream: false });
    let text = '';
    let seen: IncomingHttpHeaders = {};
    sent.on('response', (answer) => (seen = answer));
    sent.on('data', (chunk: Buffer) => (text += chunk.toString()));
    sent.on('end', () => resolve({ status: Number(seen[':status']), headers: seen, body: text }));
    sent.on('error', reject).end(body);
  }).finally(() => session.destroy());
}

async function serve(gate?: GateRules): Promise<{ servers: Servers; calls: string[] }> {
  const calls: string[] = [];
  const called = <T>(name: string, answer: T): Promise<T> => {
    calls.push(name);
    return Promise.resolve(answer);
  };
  const routes = (_: NodeRequest, response: NodeResponse): boolean => {
    response.end('data');
    return true;
  };
  const options: ServersOptions = {
    jobs: {
      getRun: () => called('getRun', sampleRun()),
      createRun: () => called('createRun', sampleRun()),
      watchRuns: () => called('watchRuns', new FakeStream().push(OPENED, undefined)),
    },
    http: { ...(gate && { gate }), routes },
  };
  return { servers: await startServers(options), calls };
}

const JSON_TYPE = { 'content-type': 'application/json' };
const IMAGE = { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors', 'sec-fetch-dest': 'image' };
const GET_RUN = '/baton.v1.JobService/GetRun?encoding=json&message=%7B%7D';

test('nothing is read of a request that is refused, over HTTP/1.1 and HTTP/2', async () => {
  const { servers, calls } = await serve();
  await using _ = servers;
  for (const [version, send] of Object.entries({ h1, h2 })) {
    const rows: readonly (readonly [status: number, path: string, method: string, OutgoingHttpHeaders])[] = [
      [421, RPC, 'POST', { ...JSON_TYPE, host: 'evil.test' }],
      [421, '/', 'GET', { host: 'evil.test' }],
      [421, '/metrics', 'GET', { host: 'evil.test' }],
      [421, '/v1/events', 'GET', { host: 'evil.test' }],
      [
        403,
        RPC,
        'POST',
        { ...JSON_TYPE, ...HERE, origin: 'http://localhost:3000', 'sec-fetch-site': 'same-site' },
      ],
      [403, RPC, 'POST', { 'content-type': 'text/plain', ...HERE, origin: 'null' }],
      [
        403,
        RPC,
        'OPTIONS',
        { ...HERE, origin: 'https://evil.test', 'access-control-request-method': 'POST' },
      ],
      [403, GET_RUN, 'GET', { ...HERE, ...IMAGE }],
      [
        403,
        '/v1/events',
        'GET',
        { ...HERE, ...IMAGE, 'sec-fetch-mode': 'navigate', 'sec-fetch-dest': 'document' },
      ],
      [403, '/metrics', 'GET', { ...HERE, ...IMAGE }],
    ];
    for (const [status, path, method, headers] of rows) {
      const answer = await send(servers.http.port, path, method, headers, method === 'POST' ? '{}' : '');
      const what = `${version} ${method} ${path} ${JSON.stringify(headers)}`;
      assert.equal(answer.status, status, what);
      assert.match(answer.body, /"code":"permission_denied".*BATON_HTTP_.*PERMISSION_DENIED/, what);
      assert.equal(answer.headers['access-control-allow-origin'], undefined, what);
    }
    // From Node 22 on, HTTP/2 itself refuses a user in it.
    const host = version === 'h1' ? 'me@localhost' : 'localhost:x';
    for (const bad of [host, 'localhost:65536']) {
      const malformed = await send(servers.http.port, RPC, 'POST', { ...JSON_TYPE, host: bad }, '{}');
      assert.equal(malformed.status, 400, bad);
      assert.match(malformed.body, /"code":"invalid_argument"/);
    }
    for (const path of ['/healthz', '/readyz'])
      assert.equal((await send(servers.http.port, path, 'GET', { host: 'evil.test' })).status, 200);
  }
  assert.deepEqual(calls, []);
});

test('who speaks gRPC is told so in the words of gRPC', async () => {
  const { servers, calls } = await serve();
  await using _ = servers;
  for (const type of ['application/grpc', 'application/grpc-web+proto']) {
    const headers = { 'content-type': type, te: 'trailers', host: 'evil.test' };
    const answer = await h2(servers.http.port, '/baton.v1.JobService/GetRun', 'POST', headers, '\0\0\0\0\0');
    assert.deepEqual([answer.status, answer.headers['grpc-status'], answer.body], [200, '7', '']);
    assert.match(String(answer.headers['grpc-message']), /evil.test.*BATON_HTTP_HOSTS/);
  }
  assert.deepEqual(calls, []);
});

test('an RPC needs a content type of its own, and GET is for what has no side effects', async () => {
  const { servers, calls } = await serve();
  await using _ = servers;
  const { port } = servers.http;
  const simple = ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'];
  for (const type of [...simple, 'text/plain; application/json', 'application/jsonx', '']) {
    const headers = type === '' ? HERE : { ...HERE, 'content-type': type };
    for (const method of ['CreateRun', 'GetRun', 'WatchRuns']) {
      const answer = await h1(port, `/baton.v1.JobService/${method}`, 'POST', headers, '{}');
      assert.deepEqual(
        [answer.status, answer.body.includes('content-type')],
        [415, true],
        `${method} ${type}`,
      );
    }
  }
  const query = GET_RUN.slice(GET_RUN.indexOf('?'));
  for (const method of ['CreateRun', 'CancelRuns', 'ClaimNext', 'WatchRuns'])
    for (const verb of ['GET', 'PUT', 'DELETE']) {
      const answer = await h1(port, `/baton.v1.JobService/${method}${query}`, verb, {
        ...HERE,
        ...JSON_TYPE,
      });
      assert.deepEqual([answer.status, answer.headers['allow']], [405, 'POST'], `${verb} ${method}`);
    }
  assert.deepEqual(calls, []);
});

test('pages of an allowed origin may ask, send and read, and no others may see the answer', async () => {
  const origin = 'https://app.example.com';
  const { servers, calls } = await serve({ ...NONE, origins: new Set([origin]) });
  await using _ = servers;
  const { port } = servers.http;
  const page = { ...HERE, origin, 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'cors' };
  const before = await h1(port, RPC, 'OPTIONS', { ...page, 'access-control-request-method': 'POST' });
  assert.deepEqual([before.status, before.body], [204, '']);
  assert.equal(before.headers['access-control-allow-origin'], origin);
  assert.equal(before.headers['access-control-allow-credentials'], undefined);
  assert.match(String(before.headers['access-control-allow-methods']), /POST, GET/);
  const allowed = String(before.headers['access-control-allow-headers']).toLowerCase();
  for (const name of [
    'content-type',
    'connect-protocol-version',
    'connect-timeout-ms',
    'x-grpc-web',
    'grpc-timeout',
  ])
    assert.ok(allowed.split(', ').includes(name), name);
  assert.match(String(before.headers['vary']), /^origin, access-control-request-method/);
  assert.equal(before.headers['access-control-max-age'], '7200');
  const created = await h1(port, RPC, 'POST', { ...page, ...JSON_TYPE }, '{}');
  assert.deepEqual([created.status, created.headers['access-control-allow-origin']], [200, origin]);
  assert.match(String(created.headers['access-control-expose-headers']), /grpc-status-details-bin/i);
  const events = await h1(port, '/v1/events', 'GET', page);
  assert.deepEqual([events.status, events.headers['access-control-allow-origin']], [200, origin]);
  assert.equal(events.headers['vary'], 'origin, accept, last-event-id');
  const image = await h1(port, GET_RUN, 'GET', { ...HERE, ...IMAGE });
  assert.deepEqual([image.status, image.headers['vary']], [403, 'origin']);
  // No page at all: answered as ever, and not for the caches of others.
  const plain = await h1(port, GET_RUN, 'GET', HERE);
  assert.deepEqual(
    [plain.status, plain.headers['vary'], plain.headers['cache-control']],
    [200, 'origin', 'no-store'],
  );
  assert.equal(plain.headers['access-control-allow-origin'], undefined);
  assert.deepEqual(calls, ['createRun', 'watchRuns', 'getRun']);
});

test('the page says how to go on, holds nothing and is shown in no frame', async () => {
  const { servers } = await serve();
  await using _ = servers;
  const { status, headers, body } = await h1(servers.http.port, '/', 'GET', HERE);
  assert.deepEqual([status, headers['content-type']], [200, 'text/html; charset=utf-8']);
  assert.match(String(headers['content-security-policy']), /default-src 'none'; frame-ancestors 'none'/);
  assert.match(body, /curl .*CreateRun/);
  const head = await h1(servers.http.port, '/', 'HEAD', HERE);
  assert.deepEqual([head.status, head.body, head.headers['content-length']], [200, '', String(body.length)]);
});
