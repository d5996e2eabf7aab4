import assert from 'node:assert/strict';
import { afterEach, beforeEach, test } from 'node:test';
import { create } from '@bufbuild/protobuf';
import { Code, ConnectError } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { batchToken } from '../../src/client/batch_token.js';
import {
  watchRuns,
  WatchProtocolError,
  WatchTokenError,
  type Reconnect,
  type WatchEvent,
  type WatchItem,
  type WatchRule,
  type WatchRunsOptions,
} from '../../src/client/index.js';
import { Versions } from '../../src/client/versions.js';
import { encodeResumeToken } from '../../src/watch/resume_token.js';
import { describeOnPostgres, type TestDatabase } from '../support/database.js';
import {
  bookmark,
  change,
  changes,
  liar,
  opened,
  state,
  stateEnd,
  tokenOf,
  type Script,
} from '../support/events_liar.js';
import { startHalfOpenProxy } from '../support/events_proxy.js';
import { startTestServer, STOP_MS, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

/** A watch tries for ever: one that a failed test leaves behind must not keep the process. */
const following = new Set<Following>();
afterEach(async () => {
  for (const watch of following) await watch.cancel();
  following.clear();
});

/** A watch that collects what it yields, and how it ended. */
class Following {
  readonly items: WatchItem[] = [];
  readonly reconnects: Reconnect[] = [];
  error: unknown;
  ended = false;
  readonly #abort = new AbortController();
  readonly #done: Promise<void>;

  constructor(options: WatchRunsOptions) {
    following.add(this);
    this.#done = this.#run(options);
  }

  async #run(options: WatchRunsOptions): Promise<void> {
    const onReconnect = (reconnect: Reconnect): void => void this.reconnects.push(reconnect);
    try {
      for await (const item of watchRuns({ onReconnect, signal: this.#abort.signal, ...options }))
        this.items.push(item);
    } catch (error) {
      this.error = error;
    }
    this.ended = true;
  }

  get events(): WatchEvent[] {
    return this.items.filter((item) => item.kind === 'event');
  }

  get revisions(): bigint[] {
    return this.events.map(({ revision }) => revision);
  }

  async has(count: number): Promise<void> {
    await waitFor(() => this.events.length >= count || this.ended, `${count} events`, 20_000);
    if (this.events.length < count)
      throw new Error(`ended after ${this.events.length}`, { cause: this.error });
  }

  async opened(): Promise<this> {
    await waitFor(() => this.items.length > 0 || this.ended, 'the watch to open');
    if (this.items.length === 0) throw this.error;
    return this;
  }

  async end(): Promise<this> {
    await within(this.#done, 'the watch to end');
    return this;
  }

  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.end();
  }
}

function withReason(code: Code, reason: string): ConnectError {
  const value = create(ErrorInfoSchema, { reason, domain: 'baton.v1', metadata: { oldest_revision: '7' } });
  return new ConnectError('no', code, undefined, [{ desc: ErrorInfoSchema, value }]);
}

const broken = new ConnectError('socket hang up', Code.Aborted);
const kindsOf = (items: readonly WatchItem[]): string[] => items.map(({ kind }) => kind);

/** Streams that break one promise each; where there are two scripts, the first one ends with a lost connection. */
const LIES: Readonly<
  Record<string, { rule: WatchRule; scripts: Script[]; options?: Partial<WatchRunsOptions> }>
> = {
  'an event twice in a message': {
    rule: 'order',
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 1n), change(1n, 'a', 1n)])] }],
  },
  'an event twice in two messages': {
    rule: 'order',
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 1n)]), changes([change(1n, 'a', 1n)])] }],
  },
  'events in a wrong order': {
    rule: 'order',
    scripts: [
      { messages: [opened(0n), changes([change(2n, 'a', 1n), change(1n, 'b', 1n)], { revision: 3n })] },
    ],
  },
  'an event from before the start': {
    rule: 'order',
    scripts: [{ messages: [opened(5n), changes([change(4n, 'a', 1n)], { revision: 6n })] }],
  },
  'an event that its message does not cover': {
    rule: 'order',
    scripts: [{ messages: [opened(0n), changes([change(9n, 'a', 1n)], { revision: 8n })] }],
  },
  'an event that a bookmark said was sent': {
    rule: 'order',
    scripts: [{ messages: [opened(0n), bookmark(9n), changes([change(8n, 'a', 1n)], { revision: 10n })] }],
  },
  'a bookmark behind the events': {
    rule: 'order',
    scripts: [{ messages: [opened(0n), changes([change(9n, 'a', 1n)]), bookmark(8n)] }],
  },
  'an event again after a reconnect': {
    rule: 'order',
    scripts: [
      { messages: [opened(0n), changes([change(3n, 'a', 1n)])], error: broken },
      { messages: [opened(3n), changes([change(3n, 'a', 1n)], { revision: 4n })] },
    ],
  },
  'a missing version': {
    rule: 'density',
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 1n), change(2n, 'a', 3n)])] }],
  },
  'a version twice': {
    rule: 'density',
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 4n), change(2n, 'a', 4n)])] }],
  },
  'a version again after the end of the run': {
    rule: 'density',
    scripts: [
      { messages: [opened(0n), changes([change(1n, 'a', 4n, RunState.FAILED), change(2n, 'a', 4n)])] },
    ],
  },
  'a version that is missing after a reconnect': {
    rule: 'density',
    scripts: [
      { messages: [opened(0n), changes([change(3n, 'a', 1n)])], error: broken },
      { messages: [opened(3n), changes([change(5n, 'a', 3n)])] },
    ],
  },
  'a version that is missing after the state': {
    rule: 'density',
    options: { includeState: true },
    scripts: [
      {
        messages: [
          opened(2n, { resumeToken: '' }),
          state(4n, [change(4n, 'a', 2n)]),
          stateEnd(4n),
          changes([change(5n, 'a', 4n)]),
        ],
      },
    ],
  },
  'a stream that begins elsewhere than its token': {
    rule: 'opened',
    scripts: [{ messages: [opened(3n)], error: broken }, { messages: [opened(4n)] }],
  },
  'a stream that begins behind the place inside of a batch': {
    rule: 'opened',
    options: { after: batchToken('t3', 5n) },
    scripts: [{ messages: [opened(6n)] }],
  },
  'a stream without OPENED': { rule: 'opened', scripts: [{ messages: [bookmark(3n)] }] },
  'OPENED twice': { rule: 'opened', scripts: [{ messages: [opened(3n), opened(3n)] }] },
  'OPENED without a token': { rule: 'token', scripts: [{ messages: [opened(3n, { resumeToken: '' })] }] },
  'events without a token': {
    rule: 'token',
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 1n)], { resumeToken: '' })] }],
  },
  'a token that stays behind': {
    rule: 'token',
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 1n)], { resumeToken: tokenOf(0n) })] }],
  },
  'a token before the state is complete': {
    rule: 'token',
    options: { includeState: true },
    scripts: [{ messages: [opened(0n)] }],
  },
  'a state that was not asked for': {
    rule: 'state',
    scripts: [{ messages: [opened(0n), state(1n, [change(1n, 'a', 1n)])] }],
  },
  'a change before the state is complete': {
    rule: 'state',
    options: { includeState: true },
    scripts: [{ messages: [opened(0n, { resumeToken: '' }), changes([change(1n, 'a', 1n)])] }],
  },
  'a run twice in the state': {
    rule: 'state',
    options: { includeState: true },
    scripts: [
      { messages: [opened(0n, { resumeToken: '' }), state(1n, [change(1n, 'a', 1n), change(1n, 'a', 1n)])] },
    ],
  },
  'a state of two revisions': {
    rule: 'state',
    options: { includeState: true },
    scripts: [
      { messages: [opened(0n, { resumeToken: '' }), state(1n, [change(1n, 'a', 1n)]), stateEnd(2n)] },
    ],
  },
  'an event without its run': {
    rule: 'shape',
    scripts: [{ messages: [opened(0n), changes([{ ...change(1n, 'a', 1n), run: undefined }])] }],
  },
  'the end while a run is open': {
    rule: 'end',
    options: { untilTerminal: true, filter: { runIds: ['a'] } },
    scripts: [{ messages: [opened(0n), changes([change(1n, 'a', 1n)])] }],
  },
};

for (const [name, { rule, scripts, options }] of Object.entries(LIES)) {
  void test(`the watch throws on ${name}`, async () => {
    const { transport, requests } = liar(...scripts);
    const watch = await new Following({ servers: transport, ...options }).end();
    assert.ok(watch.error instanceof WatchProtocolError, String(watch.error));
    assert.equal(watch.error.rule, rule, watch.error.message);
    assert.equal(requests.length, scripts.length, 'a broken promise is not retried');
  });
}

void test('a filter on where a run is lets versions be skipped, one on what it is does not', async () => {
  const scripts = (): Script[] => [
    { messages: [opened(0n), changes([change(1n, 'a', 1n), change(2n, 'a', 5n)])], silent: true },
  ];
  const some = new Following({ servers: liar(...scripts()).transport, filter: { statuses: ['new'] } });
  await some.has(2);
  await some.cancel();
  const all = new Following({ servers: liar(...scripts()).transport, filter: { repository: 'r' } });
  assert.ok((await all.end()).error instanceof WatchProtocolError);
});

void test('every token, also inside of a batch, goes on with exactly the next item', async () => {
  const batch = changes([change(4n, 'a', 1n), change(5n, 'b', 1n), change(6n, 'c', 1n)], { revision: 8n });
  const first = new Following({
    servers: liar({ messages: [opened(3n), batch, bookmark(9n)], silent: true }).transport,
  });
  await waitFor(() => first.items.length === 5, 'all items');
  await first.cancel();
  assert.deepEqual(
    first.items.map((item) => 'resumeToken' in item && item.resumeToken),
    ['t3', batchToken('t3', 4n), batchToken('t3', 5n), 't8', 't9'],
  );
  for (const [index, item] of first.items.slice(0, 3).entries()) {
    const after = 'resumeToken' in item ? item.resumeToken : '';
    const { transport, requests } = liar({ messages: [opened(3n), batch, bookmark(9n)], silent: true });
    const resumed = new Following({ servers: transport, after });
    await waitFor(() => resumed.items.some(({ kind }) => kind === 'bookmark'), 'the bookmark');
    await resumed.cancel();
    assert.equal(requests[0]?.after, 't3');
    assert.deepEqual(resumed.items.slice(1), first.items.slice(index + 1));
    // Until the stream has passed what was handled, its place alone would bring that again.
    assert.equal('resumeToken' in resumed.items[0]! && resumed.items[0].resumeToken, after);
  }
});

void test('a state that breaks off begins anew, and the reader is told to forget', async () => {
  const begin = opened(0n, { resumeToken: '' });
  const { transport, requests } = liar(
    { messages: [begin, state(3n, [change(3n, 'a', 1n)])], error: broken },
    { messages: [begin], error: broken },
    { messages: [begin, state(5n, [change(5n, 'a', 2n)]), stateEnd(5n)], error: broken },
    { messages: [opened(5n), changes([change(6n, 'a', 3n)])], silent: true },
  );
  const watch = new Following({ servers: [transport, transport, transport], includeState: true });
  await watch.has(1);
  await watch.cancel();
  assert.deepEqual(kindsOf(watch.items), ['state', 'reset', 'state', 'synced', 'event']);
  assert.deepEqual(
    requests.map(({ includeState, after }) => [includeState, after]),
    [
      [true, ''],
      [true, ''],
      [true, ''],
      [false, 't5'],
    ],
  );
});

void test('a lost token is thrown, or the state begins anew when that was asked for', async () => {
  for (const [code, reason] of [
    [Code.OutOfRange, 'RESUME_TOKEN_TOO_OLD'],
    [Code.FailedPrecondition, 'RESUME_TOKEN_FOREIGN'],
    [Code.FailedPrecondition, 'RESUME_TOKEN_FUTURE'],
  ] as const) {
    const lost = withReason(code, reason);
    const thrown = await new Following({
      servers: liar({ messages: [], error: lost }).transport,
      after: 'x',
    }).end();
    assert.ok(thrown.error instanceof WatchTokenError);
    assert.deepEqual([thrown.error.reason, thrown.error.metadata], [reason, { oldest_revision: '7' }]);
    const { transport } = liar(
      { messages: [opened(90n), changes([change(91n, 'a', 7n)])], error: lost },
      { messages: [opened(2n, { resumeToken: '' }), state(2n, [change(2n, 'a', 2n)]), stateEnd(2n)] },
      { messages: [opened(2n), changes([change(3n, 'a', 3n)])], silent: true },
    );
    const servers = [transport, transport];
    const restarted = new Following({ servers, after: 'x', onTokenLost: 'restart-with-state' });
    await restarted.has(2);
    await restarted.cancel();
    assert.deepEqual(kindsOf(restarted.items), ['opened', 'event', 'reset', 'state', 'synced', 'event']);
    const reset = restarted.items[2];
    assert.ok(reset?.kind === 'reset' && reset.reason === 'token_lost' && reset.error?.reason === reason);
  }
});

void test('a refused request is thrown at once, a lost connection is not', async () => {
  for (const error of [
    withReason(Code.InvalidArgument, 'INVALID_ARGUMENT'),
    withReason(Code.NotFound, 'RUN_NOT_FOUND'),
    new ConnectError('HTTP 401', Code.Unauthenticated),
  ]) {
    const watch = await new Following({ servers: liar({ messages: [], error }).transport }).end();
    assert.equal(ConnectError.from(watch.error).code, error.code);
  }
  // How transports name a connection that broke.
  const lost = [Code.InvalidArgument, Code.Internal, Code.Unknown, Code.Canceled, Code.Unavailable];
  const scripts = lost.map((code) => ({
    messages: [opened(0n), bookmark(0n)],
    error: new ConnectError('x', code),
  }));
  const watch = new Following({
    servers: liar(...scripts, { messages: [opened(0n), changes([change(1n, 'a', 1n)])], silent: true })
      .transport,
  });
  await watch.has(1);
  await watch.cancel();
  assert.equal(watch.reconnects.length, lost.length);
});

void test('pauses grow while every server fails, and it gives up when it was told to', async () => {
  const watch = await new Following({
    servers: ['http://127.0.0.1:1', 'http://127.0.0.1:1'],
    giveUpAfterMs: 2000,
  }).end();
  assert.equal(ConnectError.from(watch.error).code, Code.Unavailable);
  const delays = watch.reconnects.map(({ delayMs }) => delayMs);
  assert.ok(
    delays.length >= 4 && delays.every((ms, index) => (index < 2 ? ms <= 200 : ms >= 125)),
    String(delays),
  );
  assert.deepEqual(
    watch.reconnects.slice(0, 3).map(({ server, attempt }) => [server, attempt]),
    [
      [1, 1],
      [0, 2],
      [1, 3],
    ],
  );
});

void test('the signal ends a watch that waits for a message and one that waits to try again', async () => {
  const reason = new Error('enough');
  for (const servers of [liar({ messages: [opened(0n)], silent: true }).transport, 'http://127.0.0.1:1']) {
    const abort = new AbortController();
    const watch = new Following({ servers, signal: abort.signal });
    await waitFor(() => watch.items.length + watch.reconnects.length > 0, 'the watch to wait');
    abort.abort(reason);
    assert.equal((await watch.end()).error, reason);
  }
});

void test('versions are remembered for so many runs and no more', () => {
  const versions = new Versions();
  for (let index = 0; index < 100_001; index += 1) versions.set(`open ${index}`, 1n, false);
  for (let index = 0; index < 10_001; index += 1) versions.set(`ended ${index}`, 1n, true);
  assert.equal(versions.openCount, 100_000);
  assert.deepEqual(
    [versions.get('open 0'), versions.get('open 1'), versions.get('ended 0')],
    [undefined, 1n, undefined],
  );
  versions.set('open 1', 2n, true);
  assert.deepEqual([versions.get('open 1'), versions.openCount], [2n, 99_999]);
});

describeOnPostgres('watchRuns', (openDatabase) => {
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

  const truth = async (): Promise<bigint[]> => {
    const rows = await database.pool.query<{ revision: bigint }>(
      'select revision from baton.run_events order by revision',
    );
    return rows.map(({ revision }) => revision);
  };

  const createRuns = async (server: TestServer, count: number): Promise<void> => {
    for (let index = 0; index < count; index += 1)
      await server.jobs.createRun({ labels: { n: String(index) } });
  };

  void test('a server that stops in the middle: the watch goes on elsewhere, nothing is lost or doubled', async () => {
    // Each time with another server in the place of the one that has stopped.
    for (const serversNow of [
      () => [baton, other].map(({ grpcUrl }) => grpcUrl),
      () => [baton, other].map(({ httpUrl }) => httpUrl),
      () =>
        [baton, other].map(({ httpUrl }) => createConnectTransport({ baseUrl: httpUrl, httpVersion: '1.1' })),
    ]) {
      const before = (await truth()).length;
      const watch = await new Following({ servers: serversNow() }).opened();
      const writing = createRuns(other, 150);
      await watch.has(30);
      await within(baton.stop(), 'the server to stop', STOP_MS);
      await writing;
      await watch.has(150);
      await watch.cancel();
      assert.deepEqual(watch.revisions, (await truth()).slice(before));
      assert.ok(watch.reconnects.length >= 1);
      baton = await startTestServer(database.url);
    }
    await waitFor(() => other.server.service.hub.streamCount === 0, 'no stream to be left', 2000);
  });

  void test('a reader that starts anew after every few items, from its stored token, sees each change once', async () => {
    await other.jobs.batchCreateRuns({ requests: Array.from({ length: 40 }, () => ({})) });
    const seen: bigint[] = [];
    let after = 'oldest';
    while (seen.length < 40) {
      let taken = 0;
      for await (const item of watchRuns({ servers: baton.grpcUrl, after })) {
        if (item.kind === 'event') seen.push(item.revision);
        if ('resumeToken' in item) after = item.resumeToken;
        taken += 1;
        if (taken === 7 || seen.length === 40) break;
      }
    }
    assert.deepEqual(seen, await truth());
    await waitFor(() => baton.server.service.hub.streamCount === 0, 'no stream to be left', 2000);
  });

  void test('the state, then the changes, over a stop of the server', async () => {
    await createRuns(other, 20);
    const runs = new Map<string, string>();
    const options = { servers: [baton.grpcUrl, other.grpcUrl], includeState: true };
    const watch = new Following(options);
    await waitFor(() => watch.items.some(({ kind }) => kind === 'synced'), 'the state');
    await baton.stop();
    const { claims } = await other.jobs.claimNext({ stage: 'initialize', maxRuns: 10 });
    await createRuns(other, 5);
    await watch.has(15);
    await watch.cancel();
    for (const item of watch.items)
      if (item.kind === 'state' || item.kind === 'event') runs.set(item.run.id, item.run.status);
    const rows = await database.pool.query<{ id: string; status: string }>(
      'select id::text, status from baton.runs',
    );
    assert.deepEqual(new Map(rows.map(({ id, status }) => [id, status])).size, 25);
    for (const { id, status } of rows) assert.equal(runs.get(id), status);
    assert.equal(claims.length, 10);
  });

  void test('until_terminal returns after the last event', async () => {
    const id = (await baton.jobs.createRun({})).run?.id ?? '';
    const watch = await new Following({
      servers: baton.grpcUrl,
      filter: { runIds: [id] },
      untilTerminal: true,
    }).opened();
    const { claims } = await other.jobs.claimNext({ stage: 'initialize' });
    await other.jobs.updateStatus({ runId: id, leaseToken: claims[0]?.leaseToken ?? '', status: 'canceled' });
    await watch.end();
    assert.deepEqual([watch.error, watch.events.length], [undefined, 2]);
  });

  void test('a token of another database, and one that is too old, are thrown', async () => {
    await createRuns(baton, 2);
    const foreign = encodeResumeToken({ epoch: '11111111-2222-4333-8444-555555555555', revision: 1n });
    const watch = await new Following({ servers: baton.grpcUrl, after: foreign }).end();
    assert.ok(watch.error instanceof WatchTokenError && watch.error.reason === 'RESUME_TOKEN_FOREIGN');
    const fresh = new Following({
      servers: baton.httpUrl,
      after: foreign,
      onTokenLost: 'restart-with-state',
    });
    await waitFor(() => fresh.items.some(({ kind }) => kind === 'synced'), 'the state');
    await fresh.cancel();
    assert.deepEqual(kindsOf(fresh.items), ['reset', 'state', 'state', 'synced']);
  });

  void test('a connection that dies without a word is found out, and the watch goes on', async () => {
    const proxy = await startHalfOpenProxy(baton.server.grpc.port);
    try {
      const options = { servers: `http://127.0.0.1:${proxy.port}`, bookmarkIntervalMs: 1000 };
      const watch = await new Following(options).opened();
      await createRuns(other, 2);
      await watch.has(2);
      proxy.freeze();
      await createRuns(other, 2);
      await watch.has(4);
      await watch.cancel();
      assert.deepEqual(watch.revisions, await truth());
      assert.match(String(watch.reconnects[0]?.error), /no message for 3000 ms/);
      assert.equal(proxy.connections, 2);
    } finally {
      await proxy.close();
    }
  });

  void test('connections that are cut again and again in the middle of the traffic', async () => {
    const proxies = [
      await startHalfOpenProxy(baton.server.grpc.port),
      await startHalfOpenProxy(other.server.http.port),
    ];
    try {
      const servers = proxies.map(({ port }) => `http://127.0.0.1:${port}`);
      const watch = await new Following({ servers, includePayload: true }).opened();
      for (let round = 1; round <= 8; round += 1) {
        const writing = Promise.all([createRuns(baton, 20), createRuns(other, 20)]);
        await watch.has(round * 40 - 25);
        for (const proxy of proxies) proxy.cut();
        await waitFor(() => watch.reconnects.length >= round, 'the watch to notice');
        await writing;
      }
      await watch.has(320);
      await watch.cancel();
      assert.deepEqual(watch.revisions, await truth());
      await waitFor(() => proxies.every(({ open }) => open === 0), 'no connection to be left', 1000);
    } finally {
      for (const proxy of proxies) await proxy.close();
    }
  });

  void test('a slow reader is never taken for a dead stream', async () => {
    const options = { servers: baton.grpcUrl, after: 'oldest', bookmarkIntervalMs: 1000 };
    await createRuns(other, 3);
    const reconnects: Reconnect[] = [];
    const seen: bigint[] = [];
    for await (const item of watchRuns({ ...options, onReconnect: (one) => void reconnects.push(one) })) {
      if (item.kind !== 'event') continue;
      seen.push(item.revision);
      const until = performance.now() + 3200;
      // Busy for longer than the stream may be silent.
      if (seen.length === 1) await waitFor(() => performance.now() > until, 'the reader');
      if (seen.length === 3) break;
    }
    assert.deepEqual([seen, reconnects], [await truth(), []]);
  });
});
