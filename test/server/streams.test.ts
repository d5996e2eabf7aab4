/**
 * Streams come and go without a trace, one that is not read harms nobody, and every end leaves a token from which
 * the stream goes on: over every transport, with the readers under the test's control.
 */
import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { createClient } from '@connectrpc/connect';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { JobService, WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { LIMITS } from '../../src/base/limits.js';
import { createDatabase, type TestDatabase } from '../support/database.js';
import {
  CONNECT_OVER,
  type StreamClient,
  type StreamConnection,
  type Way,
} from '../support/streams_clients.js';
import {
  heapBytes,
  insertRuns,
  revisions,
  runCycles,
  startWriter,
  STATES,
} from '../support/streams_cycles.js';
import { StreamsRig, type StreamsRigOptions } from '../support/streams_rig.js';
import { assertTook, waitFor, within } from '../support/wait.js';

const POSTGRES = process.env['BATON_TEST_PG18_URL'];
const RAW: readonly Way[] = ['gRPC over raw h2', 'Connect over h2', 'Connect over HTTP/1.1'];
const WAYS: readonly Way[] = ['gRPC by grpc-js', 'Connect over h2', 'Connect over HTTP/1.1'];

/** Where a stalled stream is, relative to the healthy one that must go on. */
const PLACES = ['a connection of its own', 'the connection of a healthy stream'];

/** Cycles of each cell; `test/soak/streams_cycles.ts` is the long version. */
const CYCLES = 30;
const WIDTH = 10;
/** What a run of a few hundred cycles may leave in caches and compiled code; a leaked stream is tens of KiB. */
const HEAP_SLACK_BYTES = 3 * 1024 * 1024;

/**
 * More than the sockets of both sides take in, some 4 MiB over HTTP/1.1, or HTTP/2's window, so that whoever does not
 * read blocks. Without HTTP/2's window only long messages fill them in a reasonable time.
 */
const floodOf = (way: Way): { events: number; chars: number } =>
  way === 'Connect over HTTP/1.1' ? { events: 8000, chars: 1000 } : { events: 4000, chars: 100 };
const FLOOD_STEP = 500;

void describe('streams', { skip: POSTGRES === undefined && 'run the tests with `npm test`' }, () => {
  let db: TestDatabase;
  let rig: StreamsRig;
  let connections: StreamConnection[];

  const start = async (options: StreamsRigOptions = {}): Promise<void> => {
    rig = await StreamsRig.start(db.url, options);
  };

  const connectOver = (way: Way): StreamConnection => {
    const connection = CONNECT_OVER[way](rig);
    connections.push(connection);
    return connection;
  };

  beforeEach(async () => {
    db = await createDatabase(POSTGRES ?? '', 18);
    connections = [];
  });

  afterEach(async () => {
    for (const connection of connections) connection.close();
    try {
      // Whatever a test did: without its clients the server holds nothing more.
      await rig.empty(5000);
      assert.equal(rig.hub.heldBytes, 0);
    } finally {
      await rig.stop();
      await db.drop();
    }
  });

  for (const way of WAYS) {
    void test(`${way}: opened and cancelled streams leave nothing, idle, flowing or blocked`, async () => {
      const warnings: Error[] = [];
      const onWarning = (warning: Error): void => void warnings.push(warning);
      process.on('warning', onWarning);
      await start();
      await insertRuns(db.pool, 600, 10_000);
      // The first ones fill caches and pools; what they leave is not theirs.
      for (const state of STATES) await cycles(way, state, WIDTH);
      const timers = rig.clock.pending;
      const sockets = countSockets(rig, db);
      const heap = await heapBytes();
      for (const state of STATES) {
        const { longestMs, blocked } = await cycles(way, state, CYCLES);
        assertTook(`${way}: the end of streams, ${state}`, longestMs, 1000);
        if (state === 'blocked') assert.ok(blocked > CYCLES / 2, `only ${blocked} were blocked`);
      }
      assert.equal(rig.hub.liveCount, 0);
      assert.equal(rig.hub.demand, 'none');
      assert.equal(rig.hub.heldBytes, 0);
      // The sweep of the hub may be waiting once more; it ends itself when it finds no stream.
      await waitFor(() => rig.clock.pending <= timers, 'timers of streams to be gone', 3000);
      await waitFor(() => countSockets(rig, db) <= sockets, 'sockets of streams to be gone', 10_000);
      // What is leaked stays; what is only let go late goes.
      let grown = 0;
      const isBack = async (): Promise<boolean> => (grown = (await heapBytes()) - heap) < HEAP_SLACK_BYTES;
      await waitFor(isBack, 'the heap to be as before', 5000).catch(() =>
        assert.fail(`the heap has grown by ${Math.round(grown / 1024)} KiB`),
      );
      assert.equal(rig.openedCalls, 3 * (WIDTH + CYCLES));
      process.off('warning', onWarning);
      assert.deepEqual(warnings, []);
    });
  }

  const cycles = async (
    way: Way,
    state: (typeof STATES)[number],
    count: number,
  ): ReturnType<typeof runCycles> => {
    const writer = state === 'flowing' ? startWriter(db.pool) : undefined;
    try {
      return await runCycles(rig, way, state, count, WIDTH);
    } finally {
      await writer?.stop();
    }
  };

  for (const way of RAW) {
    const places = way === 'Connect over HTTP/1.1' ? ['a connection of its own'] : PLACES;
    for (const place of places) {
      void test(`${way}, on ${place}: a stalled stream harms nobody, and gets everything in the end`, async () => {
        await start();
        const connection = connectOver(way);
        const healthy = await connection.open({}).opened();
        const other = place === PLACES[0] ? connectOver(way) : connection;
        const stalled = await other.open({}).opened();
        stalled.pause();
        const held = watchHeld();
        const { events: flood, chars } = floodOf(way);
        for (let written = 0; written < flood; written += FLOOD_STEP) {
          await within(insertRuns(db.pool, FLOOD_STEP, chars), 'a writer', 5000);
          // In step with the healthy stream: nothing is held for it when the bytes are looked at.
          await healthy.hasEvents(written + FLOOD_STEP);
          held.look();
        }
        await waitFor(() => rig.blocked(50) === 1, 'the stalled stream to block');
        // A page of long messages is another matter, see below.
        if (chars <= 100) assert.ok(held.most <= LIMITS.streamBytes, `${held.most} bytes were held`);
        assert.ok(stalled.revisions.length < flood);
        assert.equal(healthy.end, undefined);
        stalled.resume();
        const expected = await revisions(db.pool);
        await stalled.hasEvents(flood);
        assert.deepEqual(stalled.revisions, expected);
        assert.deepEqual(healthy.revisions, expected);
        // Caught up, it is live again and no burden to the log.
        await waitFor(() => rig.hub.liveCount === 2, 'both streams to be live');
      });
    }
  }

  const watchHeld = (): { look(): void; most: number } => ({
    most: 0,
    look() {
      this.most = Math.max(this.most, rig.hub.heldBytes);
    },
  });

  const LONG_MESSAGES = `insert into baton.runs (status_message) select repeat('x', 1000) from generate_series(1, 1500)`;
  const PAYLOADS = `insert into baton.runs (input)
    select jsonb_build_object('text', repeat('x', 10000)) from generate_series(1, 500)`;
  for (const [name, insert, request] of [
    ['live, with long messages', LONG_MESSAGES, {}],
    ['catching up, with long messages', LONG_MESSAGES, { after: 'oldest' }],
    ['live, with payloads', PAYLOADS, { includePayload: true }],
    ['catching up, with payloads', PAYLOADS, { includePayload: true, after: 'oldest' }],
    ['in its state, with long messages', LONG_MESSAGES, { includeState: true }],
    ['in its state, with payloads', PAYLOADS, { includePayload: true, includeState: true }],
  ] as const) {
    void test(`a stalled stream holds at most 256 KiB: ${name}`, async () => {
      await start();
      const isBehind = 'after' in request || 'includeState' in request;
      if (isBehind) await db.pool.query(insert);
      const stalled = connectOver('gRPC over raw h2').open(request, true);
      await waitFor(() => rig.hub.streamCount === 1, 'the stream to open');
      if (!isBehind) {
        await waitFor(() => rig.hub.liveCount === 1, 'the stream to be live');
        await db.pool.query(insert);
      }
      await waitFor(() => rig.blocked(100) === 1, 'the stream to block');
      const held = rig.hub.heldBytes;
      stalled.cancel();
      assert.ok(held > 0, 'what is held has to be counted');
      assert.ok(held <= LIMITS.streamBytes, `${Math.round(held / 1024)} KiB are held for it`);
    });
  }

  void test('what a stalled stream holds is counted in bytes, the message under way included', async () => {
    await start();
    // One message, of characters that take three bytes each.
    await db.pool.query(
      `insert into baton.runs (status_message) select repeat('界', 1000) from generate_series(1, 30)`,
    );
    for (const request of [{ after: 'oldest' }, { includeState: true }]) {
      const stalled = connectOver('gRPC over raw h2').open(request, true);
      await waitFor(() => rig.blocked(100) === 1, 'the stream to block');
      assert.ok(rig.hub.heldBytes >= 90_000, `${rig.hub.heldBytes} bytes`);
      stalled.cancel();
      await rig.empty();
      assert.equal(rig.hub.heldBytes, 0);
    }
  });

  for (const way of RAW) {
    void test(`${way}: while its bytes wait for room, a message itself is not kept`, async () => {
      await start();
      await insertRuns(db.pool, 1000, 10_000);
      connectOver(way).open({ after: 'oldest' }, true);
      await waitFor(() => rig.blocked(100) === 1, 'the stream to block');
      await heapBytes();
      assert.equal(rig.lastMessage?.deref(), undefined);
    });
  }

  void test('readers that stand still in a state keep neither calls nor other states waiting', async () => {
    await start();
    await db.pool.query(LONG_MESSAGES);
    const request = { includeState: true };
    const still = Array.from({ length: 2 * LIMITS.stateConnections }, () =>
      connectOver('gRPC over raw h2').open(request, true),
    );
    await waitFor(() => rig.openCalls === still.length, 'all streams to be there');
    await waitFor(() => rig.blocked(50) >= LIMITS.stateConnections, 'those that have a snapshot to block');
    const transport = createGrpcTransport({ baseUrl: `http://127.0.0.1:${rig.grpcPort}` });
    await within(createClient(JobService, transport).createRun({}), 'a writer', 1000);

    const healthy = connectOver('gRPC over raw h2').open(request);
    await waitFor(() => healthy.lastKind === WatchKind.STATE_END, 'a whole state for who reads it', 20_000);
    assert.equal(healthy.revisions.length, 1501);
    assert.equal(healthy.end, undefined);
    // Each waited for its turn, and stood still in it until it was another's.
    assert.ok((rig.reported.get('WatchRuns 8') ?? 0) >= LIMITS.stateConnections);
  });

  void test('who leaves while waiting for a state leaves nothing behind', async () => {
    await start();
    await db.pool.query(LONG_MESSAGES);
    const connection = connectOver('gRPC over raw h2');
    const open = (): StreamClient => connection.open({ includeState: true }, true);
    const still = Array.from({ length: LIMITS.stateConnections }, open);
    await waitFor(() => rig.blocked(50) === still.length, 'all snapshots to be taken');
    const waiting = Array.from({ length: 5 }, open);
    await waitFor(() => rig.openCalls === still.length + waiting.length, 'more to wait');
    await waitFor(() => rig.blocked(0) === still.length, 'more to wait for their state');
    for (const stream of waiting) stream.cancel();
    await waitFor(() => rig.hub.streamCount === still.length, 'those who left to be gone', 1000);
    for (const stream of still) stream.cancel();
    await rig.empty(1000);
  });

  for (const way of RAW) {
    void test(`${way}: the watchdog ends a stream that is not read; its token goes on`, async () => {
      await start({ speed: 10, limits: { stallMs: 10_000 } });
      const connection = connectOver(way);
      const healthy = await connection.open({}).opened();
      const stalled = await connection.open({}).opened();
      stalled.pause();
      const { events: flood, chars } = floodOf(way);
      await insertRuns(db.pool, flood, chars);
      await waitFor(() => rig.hub.streamCount === 1, 'the stalled stream to be given up', 10_000);
      assert.equal(rig.hub.stalledCount, 1);
      await waitFor(() => rig.openCalls === 1, 'its call to be over');
      assert.equal(rig.reported.get('WatchRuns 8'), 1);
      assert.equal(stalled.end, undefined);
      await healthy.hasEvents(flood);

      stalled.resume();
      const { code, reason } = await stalled.hasEnded();
      if (code !== 'reset') assert.deepEqual([code, reason], ['resource_exhausted', 'SLOW_CONSUMER']);
      await insertRuns(db.pool, 10);
      const resumed = connection.open({ after: stalled.lastToken });
      await resumed.hasEvents(flood + 10 - stalled.revisions.length);
      assert.deepEqual([...stalled.revisions, ...resumed.revisions], await revisions(db.pool));
    });

    void test(`${way}: a stream that stands still at its planned end, too, is over in the server`, async () => {
      await start({ speed: 10, limits: { stallMs: 50_000, ageMs: { min: 30_000, max: 30_000 } } });
      const { events, chars } = floodOf(way);
      const blocked = async (): Promise<StreamClient> => {
        const stream = await connectOver(way).open({}).opened();
        stream.pause();
        await insertRuns(db.pool, events, chars);
        await waitFor(() => rig.blocked(50) === 1 || rig.hub.streamCount === 0, 'the stream to block');
        // On a slow machine its planned end came first.
        if (rig.hub.streamCount === 1) return stream;
        stream.cancel();
        await rig.empty();
        return blocked();
      };
      const stalled = await blocked();
      await waitFor(() => rig.hub.streamCount === 0, 'its planned end', 5000);
      assert.equal(stalled.end, undefined);
      await waitFor(() => rig.openCalls === 0, 'its call to be over although nobody reads', 6000);
    });
  }

  for (const way of WAYS) {
    void test(`${way}: long streams end as planned, one by one, and go on from their last token`, async () => {
      const ageMs = { min: 10_000, max: 40_000 };
      const speed = 10;
      await start({ speed, limits: { ageMs } });
      const connection = connectOver(way);
      const opened = performance.now();
      const streams = Array.from({ length: 12 }, () => connection.open({}));
      await Promise.all(streams.map((stream) => stream.opened()));
      const writer = startWriter(db.pool);
      const ends: number[] = [];
      const ended = async (stream: (typeof streams)[number]): Promise<void> => {
        assert.deepEqual(await stream.hasEnded(), { code: 'unavailable', reason: 'SERVER_STOPPING' });
        ends.push(performance.now() - opened);
        assert.equal(stream.lastKind, WatchKind.BOOKMARK);
      };
      await Promise.all(streams.map(ended));
      assert.equal(rig.hub.streamCount, 0);
      assert.ok(Math.min(...ends) >= ageMs.min / speed, `${Math.min(...ends)} ms is too early`);
      assertTook(`${way}: the last end, after its time`, Math.max(...ends) - ageMs.max / speed, 2000);
      // All twelve within a sixth of the window would happen once in some ten million runs.
      assert.ok(Math.max(...ends) - Math.min(...ends) > (ageMs.max - ageMs.min) / speed / 6, `all at once`);
      await writer.stop();
      const all = await revisions(db.pool);
      for (const stream of streams.slice(0, 4)) {
        const resumed = connection.open({ after: stream.lastToken });
        await resumed.opened();
        await resumed.hasEvents(all.length - stream.revisions.length);
        assert.deepEqual([...stream.revisions, ...resumed.revisions], all);
        resumed.cancel();
      }
    });
  }
});

/** Open handles that keep the process alive: sockets, timers and requests. */
/** Open sockets but for those to the database, which the pools open as they need them. */
function countSockets(rig: StreamsRig, db: TestDatabase): number {
  const sockets = process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;
  return sockets - rig.databaseConnections - db.pool.size;
}
