import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { get as httpGet, type IncomingMessage } from 'node:http';
import { connect as http2Connect, constants } from 'node:http2';
import { afterEach, beforeEach, test } from 'node:test';
import { BatonError, invalidArgument, type ErrorReason } from '../../src/base/errors.js';
import { formatCounts } from '../../src/rpc/event_stream_format.js';
import { createHandlers } from '../../src/rpc/handlers.js';
import { startHttpServer } from '../../src/rpc/http.js';
import type { CallContext, WatchMessage, WatchRunsRequest } from '../../src/service/api.js';
import { encodeResumeToken } from '../../src/watch/resume_token.js';
import { describeOnPostgres, silent, type TestDatabase } from '../support/database.js';
import { chromium, openBrowser } from '../support/events_browser.js';
import { EventsReader, type Line, type ServerSent } from '../support/events_reader.js';
import { FakeStream, message, sampleEvent } from '../support/rpc_fake.js';
import { startServers, type Servers } from '../support/rpc_servers.js';
import { startTestServer, STOP_MS, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const EPOCH = '0190b0a0-0000-7000-8000-00000000000e';
const SSE = { accept: 'text/event-stream' };
const VERSIONS = ['h1', 'h2'] as const;

const tokenAt = (revision: bigint): string => encodeResumeToken({ epoch: EPOCH, revision });

function at(revision: bigint, overrides: Partial<WatchMessage> = {}): WatchMessage {
  return message({ revision, resumeToken: tokenAt(revision), ...overrides });
}

const opened = (): WatchMessage => at(0n, { kind: 'OPENED' });
const events = (...revisions: bigint[]): WatchMessage =>
  at((revisions.at(-1) ?? 0n) + 5n, { kind: 'EVENTS', events: revisions.map((r) => sampleEvent(r)) });

function serveStream(stream: FakeStream): Promise<Servers> {
  return startServers({ jobs: { watchRuns: () => Promise.resolve(stream) } });
}

function violationsOf(line: { error?: Line['error'] } | undefined): unknown {
  const request = line?.error?.details.find(({ type }) => type === 'google.rpc.BadRequest');
  const found = (request?.debug?.['fieldViolations'] ?? []) as { field: string; description: string }[];
  return found.map(({ field, description }) => [field, description]);
}

void test('the query says what WatchRunsRequest says', async () => {
  const asked: WatchRunsRequest[] = [];
  const watchRuns = (request: WatchRunsRequest): Promise<FakeStream> => {
    asked.push(request);
    return Promise.resolve(new FakeStream().push(opened(), undefined));
  };
  await using servers = await startServers({ jobs: { watchRuns } });
  const query =
    'after=t&run_id=a&run_id=b&pipeline=ci&pipeline=cd&stage=run&status=new&state=PENDING&repository=r%20%26' +
    '&state=RUN_STATE_FAILED&label=a%3Db%3Dc&label=empty%3D&include_state=false&include_payload=true' +
    '&until_terminal=true&bookmark_interval=1.5s';
  await new EventsReader(servers.url, query).end();
  const filter = {
    ...{ runIds: ['a', 'b'], pipelines: ['ci', 'cd'], stages: ['run'], statuses: ['new'] },
    ...{ states: ['PENDING', 'FAILED'], repository: 'r &', labels: { a: 'b=c', empty: '' } },
  };
  const flags = { includeState: false, includePayload: true, untilTerminal: true };
  assert.deepEqual(asked.pop(), { filter, after: 't', ...flags, bookmarkIntervalMs: 1500 });
  await new EventsReader(servers.url, 'include_state=true&bookmark_interval=10').end();
  assert.equal(asked.at(-1)?.includeState, true);
  assert.equal(asked.pop()?.bookmarkIntervalMs, 10_000);
  // A browser that reconnects repeats the URL.
  const reconnects = new EventsReader(servers.url, 'after=a&include_state=true', { 'last-event-id': 'b' });
  await reconnects.end();
  assert.deepEqual([asked[0]?.after, asked[0]?.includeState], ['b', false]);
});

void test('a bad query is refused with everything that is wrong with it, in the names of the query', async () => {
  const refuse = (): Promise<never> =>
    Promise.reject(
      invalidArgument([
        { field: 'filter.run_ids[1]', description: 'x' },
        { field: 'filter.labels["a"]', description: 'y' },
        { field: 'after', description: 'z' },
      ]),
    );
  await using servers = await startServers({ jobs: { watchRuns: refuse } });
  const query =
    'pipelines=ci&after=a&after=b&state=PENDING&state=pending&label=x&label=a=1&label=a=2&include_state&bookmark_interval=1m';
  const bad = await new EventsReader(servers.url, query).end();
  assert.equal(bad.status, 400);
  const error = JSON.parse(bad.body) as NonNullable<Line['error']>;
  assert.equal(error.code, 'invalid_argument');
  const fields = (violationsOf({ error }) as [string, string][]).map(([field]) => field);
  const expected = [
    'pipelines',
    'after',
    'include_state',
    'bookmark_interval',
    'state[1]',
    'label[0]',
    'label[2]',
  ];
  assert.deepEqual(fields.sort(), expected.sort());
  const ruled = await new EventsReader(servers.url, '', { 'last-event-id': 'q' }).end();
  assert.deepEqual(violationsOf({ error: JSON.parse(ruled.body) as NonNullable<Line['error']> }), [
    ['run_id[1]', 'x'],
    ['label["a"]', 'y'],
    ['Last-Event-ID', 'z'],
  ]);
});

void test("an error before the stream is Connect's own: the same status and body", async () => {
  const reasons: [ErrorReason, number][] = [
    ['RESUME_TOKEN_FOREIGN', 400],
    ['RESUME_TOKEN_TOO_OLD', 400],
    ['RUN_NOT_FOUND', 404],
    ['OVERLOADED', 429],
    ['DATABASE_UNAVAILABLE', 503],
    ['INTERNAL', 500],
  ];
  let reason: ErrorReason = 'INTERNAL';
  const fail = (): Promise<never> =>
    Promise.reject(new BatonError(reason, 'so it is', { metadata: { a: 'b' }, retryDelayMs: 70 }));
  await using servers = await startServers({ jobs: { watchRuns: fail, getRun: fail } });
  for (const [given, status] of reasons) {
    reason = given;
    const seen = await new EventsReader(servers.url, '', SSE).end();
    const headers = { 'content-type': 'application/json' };
    const call = fetch(`${servers.url}/baton.v1.JobService/GetRun`, { method: 'POST', body: '{}', headers });
    const connect = await call;
    assert.deepEqual([seen.status, seen.headers.get('content-type')], [status, 'application/json']);
    assert.equal(connect.status, status);
    if (given === 'INTERNAL') assert.doesNotMatch(seen.body, /so it is/);
    else assert.deepEqual(JSON.parse(seen.body), await connect.json());
  }
});

void test('only GET is allowed, only here, and no other origin is invited', async () => {
  await using servers = await serveStream(new FakeStream().push(opened(), undefined));
  for (const method of ['HEAD', 'POST', 'PUT', 'OPTIONS', 'DELETE']) {
    const response = await fetch(`${servers.url}/v1/events`, { method });
    assert.deepEqual([response.status, response.headers.get('allow')], [405, 'GET'], method);
    await response.text();
  }
  assert.equal((await fetch(`${servers.url}/v1/events/x`)).status, 404);
  const elsewhere = await new EventsReader(servers.url, '', { origin: 'http://elsewhere.example' }).end();
  assert.deepEqual([elsewhere.status, elsewhere.headers.get('access-control-allow-origin')], [403, null]);
  const stream = await new EventsReader(servers.url, '').end();
  const names = [
    'cache-control',
    'x-accel-buffering',
    'x-content-type-options',
    'access-control-allow-origin',
  ];
  assert.deepEqual(
    names.map((name) => stream.headers.get(name)),
    ['no-store, no-transform', 'no', 'nosniff', null],
  );
});

void test('a message of several events becomes lines, each with the token of its own place', async () => {
  for (const version of VERSIONS) {
    for (const headers of [{}, SSE]) {
      const state = at(9n, { kind: 'STATE', resumeToken: '', events: [sampleEvent(9n)] });
      const stream = new FakeStream().push(opened(), state, at(9n, { kind: 'STATE_END' }));
      stream.push(events(11n, 12n, 15n), at(30n), undefined);
      await using servers = await serveStream(stream);
      const reader = await new EventsReader(servers.url, '', headers, version).end();
      assert.equal(reader.error, undefined);
      assert.deepEqual(
        reader.lines.map(({ kind, revision, resumeToken }) => [kind, revision, resumeToken]),
        [
          ['OPENED', '0', tokenAt(0n)],
          ['STATE', '9', ''],
          ['STATE_END', '9', tokenAt(9n)],
          ['EVENT', '11', tokenAt(11n)],
          ['EVENT', '12', tokenAt(12n)],
          ['EVENT', '20', tokenAt(20n)],
          ['BOOKMARK', '30', tokenAt(30n)],
          ['END', '30', tokenAt(30n)],
        ],
      );
      assert.equal(reader.lines[1]?.event?.type, 'EVENT_TYPE_UNSPECIFIED');
      assert.equal(reader.lines[5]?.event?.revision, '15');
      if (headers !== SSE) continue;
      assert.ok(reader.retryMs !== undefined && reader.retryMs >= 500 && reader.retryMs <= 2000);
      const kinds = ['opened', 'state', 'state_end', 'message', 'message', 'message', 'bookmark', 'end'];
      const ids = [0n, undefined, 9n, 11n, 12n, 20n, 30n].map((r) => (r === undefined ? r : tokenAt(r)));
      assert.deepEqual(
        reader.sent.map(({ event, id }) => [event, id]),
        kinds.map((kind, index) => [kind, index < ids.length ? ids[index] : 'end']),
      );
    }
  }
});

void test('a stream that fails ends with the error and the token to go on from', async () => {
  const failing = (): FakeStream =>
    new FakeStream().push(
      opened(),
      events(3n),
      new BatonError('SLOW_CONSUMER', 'too slow', { retryDelayMs: 500 }),
    );
  await using servers = await startServers({ jobs: { watchRuns: () => Promise.resolve(failing()) } });
  for (const headers of [{}, SSE]) {
    const reader = await new EventsReader(servers.url, '', headers).end();
    assert.deepEqual([reader.status, reader.error], [200, undefined]);
    const { kind, resumeToken, error } = reader.last ?? {};
    assert.deepEqual([kind, resumeToken, error?.code], ['ERROR', tokenAt(8n), 'resource_exhausted']);
    assert.equal(error?.details[0]?.debug?.['reason'], 'SLOW_CONSUMER');
    if (headers === SSE) assert.deepEqual(reader.sent.at(-1)?.event, 'error');
    if (headers === SSE) assert.deepEqual(reader.sent.at(-1)?.id, tokenAt(8n));
  }
  await waitFor(() => servers.reports.length === 2, 'both to be reported');
  assert.deepEqual(
    servers.reports.map(({ code }) => code),
    [8, 8],
  );
});

void test('a browser that asks what follows the good end is told that nothing does', async () => {
  await using servers = await serveStream(new FakeStream());
  const query = { until_terminal: 'true', run_id: '0190b0a0-0000-7000-8000-000000000001' };
  const reader = await new EventsReader(servers.url, query, { ...SSE, 'last-event-id': 'end' }).end();
  assert.deepEqual([reader.status, reader.body], [204, '']);
});

void test('streams that are given the same message share its bytes, and both forms the JSON of its events', async () => {
  const shared = events(1n, 2n);
  const first = opened();
  const watchRuns = (): Promise<FakeStream> =>
    Promise.resolve(new FakeStream().push(first, shared, undefined));
  await using servers = await startServers({ jobs: { watchRuns } });
  const before = { ...formatCounts };
  const lines = [];
  for (const headers of [{}, {}, SSE, SSE])
    lines.push((await new EventsReader(servers.url, '', headers).end()).lines);
  assert.equal(formatCounts.messages - before.messages, 4, 'two messages in two forms');
  assert.equal(formatCounts.events - before.events, 2);
  for (const other of lines) assert.deepEqual(other, lines[0]);
});

/** One client's side of a stream: it reads nothing before `resume`, and goes away at `leave`. */
interface Reader {
  readonly bytes: () => number;
  readonly over: () => boolean;
  resume(): void;
  leave(): void;
}

const READERS: Record<(typeof VERSIONS)[number], (port: number) => Reader> = {
  h1(port) {
    let bytes = 0;
    let over = false;
    const call = httpGet({ port, path: '/v1/events' });
    const response = new Promise<IncomingMessage>((resolve) => call.on('response', resolve));
    call.on('error', () => (over = true)).on('close', () => (over = true));
    void response.then((r) => r.on('error', () => (over = true)));
    return {
      bytes: () => bytes,
      over: () => over,
      resume: () => void response.then((r) => r.on('data', (b: Buffer) => (bytes += b.length))),
      leave: () => void call.destroy(),
    };
  },
  h2(port) {
    let bytes = 0;
    let over = false;
    const session = http2Connect(`http://127.0.0.1:${port}`);
    const stream = session.request({ ':path': '/v1/events' });
    session.on('error', () => {});
    stream.on('error', () => {}).on('close', () => (over = true));
    return {
      bytes: () => bytes,
      over: () => over,
      resume: () => void stream.on('data', (b: Buffer) => (bytes += b.length)),
      leave: () => {
        stream.close(constants.NGHTTP2_CANCEL);
        session.close();
      },
    };
  },
};

/** A message of some 40 KiB, of its own each time. */
const big = (): WatchMessage =>
  at(1n, { kind: 'EVENTS', events: [sampleEvent(1n, { statusMessage: 'x'.repeat(40 * 1024) })] });

/** The value once it is the same in so many looks, in each of whose turns the server could have gone on. */
async function settled(value: () => number): Promise<number> {
  let [last, same] = [value(), 0];
  await waitFor(() => {
    if (value() === last) same += 1;
    else [last, same] = [value(), 0];
    return same > 15;
  }, 'a value to settle');
  return last;
}

for (const version of VERSIONS) {
  const open = READERS[version];

  void test(`${version}: OPENED arrives at once on a silent stream, and a cancel while idle closes it`, async () => {
    const stream = new FakeStream().push(opened());
    await using servers = await serveStream(stream);
    const reader = open(servers.http.port);
    reader.resume();
    await waitFor(() => reader.bytes() > 20 && stream.pulls === 2, 'OPENED', 1000);
    reader.leave();
    await waitFor(() => stream.closed, 'the stream to be closed while idle', 1000);
    await waitFor(() => servers.reports.length === 1, 'the report');
    assert.equal(servers.reports[0]?.code, 1);
  });

  void test(`${version}: a cancel while lines flow closes the stream`, async () => {
    const stream = new FakeStream(() => at(1n));
    await using servers = await serveStream(stream);
    const reader = open(servers.http.port);
    reader.resume();
    await waitFor(() => reader.bytes() > 20_000, 'some lines');
    reader.leave();
    await waitFor(() => stream.closed, 'the stream to be closed while flowing', 1000);
  });

  void test(`${version}: a reader that does not read is not pulled for, and goes on when it does`, async () => {
    const stream = new FakeStream(big);
    await using servers = await serveStream(stream);
    const reader = open(servers.http.port);
    await waitFor(() => stream.pulls > 0, 'the first pull');
    const pulls = await settled(() => stream.pulls);
    // What the sockets of both sides hold is the kernel's.
    assert.ok(pulls < 400, `${pulls} messages of 40 KiB were pulled for a reader that reads nothing`);
    reader.resume();
    await waitFor(() => stream.pulls > pulls + 50, 'the stream to go on');
    reader.leave();
    await waitFor(() => stream.closed, 'the stream to be closed', 1000);
  });

  void test(`${version}: a cancel while the writer is blocked closes the stream`, async () => {
    const stream = new FakeStream(big);
    await using servers = await serveStream(stream);
    const reader = open(servers.http.port);
    await waitFor(() => stream.pulls > 0, 'the first pull');
    const pulls = await settled(() => stream.pulls);
    reader.leave();
    await waitFor(() => stream.closed, 'the stream to be closed while blocked', 1000);
    assert.equal(stream.pulls, pulls, 'nothing is pulled for a reader that has gone');
  });

  void test(`${version}: a stream that the service abandons while its writer is blocked is broken off`, async () => {
    const stream = new FakeStream(big);
    let call: CallContext | undefined;
    const watchRuns = (_: WatchRunsRequest, context: CallContext): Promise<FakeStream> => {
      call = context;
      return Promise.resolve(stream);
    };
    await using servers = await startServers({ jobs: { watchRuns } });
    const reader = open(servers.http.port);
    await waitFor(() => stream.pulls > 0, 'the first pull');
    const pulls = await settled(() => stream.pulls);
    call?.abandon(new BatonError('SLOW_CONSUMER', 'too slow'));
    await waitFor(() => stream.closed, 'the stream to be closed', 1000);
    // The client reads nothing, and still the server holds nothing more for it.
    await within(servers.http.drain(), 'the connection to be let go', 900);
    reader.resume();
    await waitFor(() => reader.over(), 'the client to see it broken', 3000);
    assert.equal(stream.pulls, pulls);
    assert.equal(servers.reports[0]?.code, 8);
    reader.leave();
  });
}

describeOnPostgres('the HTTP stream of events', (openDatabase) => {
  let database: TestDatabase;
  let baton: TestServer;
  let other: TestServer;

  beforeEach(async () => {
    database = await openDatabase();
    baton = await startTestServer(database.url);
    other = await startTestServer(database.url);
  });

  afterEach(async () => {
    await baton.stop();
    await other.stop();
    await database.drop();
  });

  const create = (count: number): Promise<unknown> =>
    baton.jobs.batchCreateRuns({ requests: Array.from({ length: count }, () => ({ repository: 'r' })) });

  const revisions = async (): Promise<string[]> => {
    const rows = await database.pool.query<{ revision: string }>(
      'select revision::text from baton.run_events order by run_events.revision',
    );
    return rows.map(({ revision }) => revision);
  };

  void test('every line resumes on another server with exactly what follows', async () => {
    await create(3);
    for (const [version, headers] of [
      ['h1', {}],
      ['h2', {}],
      ['h1', SSE],
      ['h2', SSE],
    ] as const) {
      const reader = await new EventsReader(baton.httpUrl, 'after=oldest', headers, version).opened();
      await create(4);
      const all = await revisions();
      await reader.hasEvents(all.length);
      assert.deepEqual(reader.revisions, all);
      for (const [index, line] of reader.lines.entries()) {
        const rest = reader.lines.slice(index + 1).flatMap(({ event }) => event?.revision ?? []);
        const query = index % 2 === 0 ? { after: line.resumeToken } : { after: 'oldest' };
        const header = index % 2 === 0 ? {} : { 'last-event-id': line.resumeToken };
        const resumed = await new EventsReader(other.httpUrl, query, header, version).opened();
        await resumed.hasEvents(rest.length);
        assert.deepEqual(resumed.revisions, rest);
        await resumed.cancel();
      }
      await reader.cancel();
    }
    const left = (): number => baton.server.service.hub.streamCount + other.server.service.hub.streamCount;
    await waitFor(() => left() === 0, 'no stream to be left', 1000);
  });

  void test('filters, state, payload and the end of the runs', async () => {
    const id =
      (await baton.jobs.createRun({ repository: 'mine', labels: { a: 'b' }, input: { n: 1 } })).run?.id ?? '';
    await create(2);
    const state = await new EventsReader(
      baton.httpUrl,
      'include_state=true&label=a=b&include_payload=true',
    ).opened();
    await state.has('STATE_END');
    const kinds = state.lines.map(({ kind }) => kind);
    assert.deepEqual(kinds, ['OPENED', 'STATE', 'STATE_END']);
    assert.deepEqual([state.lines[1]?.event?.run.id, state.lines[1]?.event?.run['input']], [id, { n: 1 }]);
    const ends = await new EventsReader(other.httpUrl, { until_terminal: 'true', run_id: id }, SSE).opened();
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize' });
    const update = { runId: id, leaseToken: claims[0]?.leaseToken ?? '', status: 'error' };
    await baton.jobs.updateStatus(update);
    await ends.end();
    assert.deepEqual(
      ends.events.map(({ type }) => type),
      ['EVENT_TYPE_CLAIMED', 'EVENT_TYPE_FAILED'],
    );
    assert.deepEqual([ends.sent.at(-1)?.event, ends.sent.at(-1)?.id, ends.error], ['end', 'end', undefined]);
    await state.hasEvents(2);
    await state.cancel();
  });

  void test('an event reads the same as in a Connect JSON stream', async () => {
    await create(1);
    const { runs } = await baton.httpJobs.listRuns({});
    const url = `${baton.httpUrl}/baton.v1.JobService/ListRunEvents`;
    const body = JSON.stringify({ runId: runs[0]?.id, includePayload: true });
    const headers = { 'content-type': 'application/json' };
    const listed = (await (await fetch(url, { method: 'POST', body, headers })).json()) as {
      events: unknown[];
    };
    const reader = await new EventsReader(baton.httpUrl, 'after=oldest&include_payload=true').opened();
    await reader.hasEvents(1);
    assert.deepEqual(reader.events, listed.events);
    await reader.cancel();
  });

  void test('a stop ends the stream with an error that carries the last token', async () => {
    const readers = VERSIONS.map((version) => new EventsReader(baton.httpUrl, '', {}, version));
    for (const reader of readers) await reader.opened();
    await create(2);
    for (const reader of readers) await reader.hasEvents(2);
    await within(baton.stop(), 'the server to stop', STOP_MS);
    await other.jobs.createRun({});
    for (const reader of readers) {
      const { last } = await reader.end();
      assert.deepEqual([last?.kind, last?.error?.code, reader.error], ['ERROR', 'unavailable', undefined]);
      const resumed = await new EventsReader(other.httpUrl, { after: last?.resumeToken ?? '' }).opened();
      await resumed.hasEvents(1);
      assert.deepEqual(resumed.revisions, (await revisions()).slice(2));
      await resumed.cancel();
    }
  });

  void test('curl -N shows a line for each change', { skip: !existsSync('/usr/bin/curl') }, async () => {
    const curl = spawn('/usr/bin/curl', ['-sN', `${baton.httpUrl}/v1/events?repository=r`]);
    let text = '';
    curl.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()));
    await waitFor(() => text.includes('OPENED'), 'OPENED', 2000);
    await create(3);
    await waitFor(() => text.trimEnd().split('\n').length === 4, 'three changes');
    const seen = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Line);
    assert.deepEqual(
      seen.slice(1).map(({ event }) => event?.revision),
      await revisions(),
    );
    curl.kill();
    await waitFor(() => baton.server.service.hub.streamCount === 0, 'the stream to be gone', 1000);
  });

  const noBrowser = 'no Chromium on this machine (apt-get install chromium)';
  const skip = chromium === undefined && process.env['BATON_REQUIRE_ALL'] !== '1' ? noBrowser : false;
  void test('a browser reconnects by itself and misses nothing', { skip, timeout: 60_000 }, async () => {
    assert.ok(chromium !== undefined, noBrowser);
    const seen: ServerSent[] = [];
    const numbers = new Set<number>();
    const take = ({ n, ...sent }: ServerSent & { readonly n: number }): void => {
      // What the page could not tell because its connection broke, it tells again.
      if (!numbers.has(n)) seen.push(sent);
      numbers.add(n);
    };
    const handlers = createHandlers(baton.server.service.jobs, baton.server.service.pipelines);
    const ready = (): Promise<{ ok: boolean; detail: string }> => Promise.resolve({ ok: true, detail: '' });
    const serve = (port: number): ReturnType<typeof startHttpServer> =>
      startHttpServer({
        ...{ handlers, ready, log: silent, listen: { host: '127.0.0.1', port } },
        routes: (request, response) => {
          let body = '';
          request.on('data', (chunk: Buffer) => (body += chunk.toString()));
          request.on('end', () => {
            if (request.url === '/seen') take(JSON.parse(body) as ServerSent & { n: number });
            response.setHeader('content-type', 'text/html');
            response.end(PAGE);
          });
          return true;
        },
      });
    let http = await serve(0);
    const browser = await openBrowser(chromium, `http://127.0.0.1:${http.port}/page`);
    try {
      await waitFor(
        () => seen.some(({ event }) => event === 'opened'),
        'the page to open its stream',
        30_000,
      );
      await create(3);
      const changes = (): string[] =>
        seen
          .filter(({ event }) => event === 'message')
          .map(({ data }) => (JSON.parse(data) as Line).event?.revision ?? '');
      await waitFor(() => changes().length === 3, 'the first changes');
      await http.close();
      await create(3);
      http = await serve(http.port);
      await waitFor(() => changes().length >= 6, 'the page to come back', 30_000);
      await create(1);
      await waitFor(() => changes().length >= 7, 'what comes after');
      assert.deepEqual(changes(), await revisions());
    } finally {
      await browser.close();
      await http.close();
    }
  });
});

/** Tells the test all that the browser's EventSource gives, in order. */
const PAGE = `<!doctype html><script>
  let last = Promise.resolve();
  let n = 0;
  const tell = ({ type: event, lastEventId: id, data }) => {
    const body = JSON.stringify({ n: n++, event, id, data });
    last = last.then(() => send(body));
  };
  const send = (body) => fetch('/seen', { method: 'POST', body }).catch(() => again(body));
  const again = (body) => new Promise((done) => setTimeout(done, 100)).then(() => send(body));
  if (location.pathname === '/page') {
    const source = new EventSource('/v1/events?repository=r&bookmark_interval=1');
    for (const name of ['opened', 'message', 'bookmark']) source.addEventListener(name, tell);
  }
</script>`;
