/** What a writer that waits is given without asking; see `handOver` of src/watch/subscription.ts. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { BatonError } from '../../src/base/errors.js';
import { LIMITS } from '../../src/base/limits.js';
import { MATCH_ALL } from '../../src/run/filter.js';
import { Hub } from '../../src/watch/hub.js';
import type { LogPage, WatchMessage } from '../../src/watch/message.js';
import type { Subscription } from '../../src/watch/subscription.js';
import { ManualClock } from '../support/manual_clock.js';
import { sampleEvent } from '../support/rpc_fake.js';

const BOOKMARK_MS = 10_000;

/** A writer that is handed messages, as long as it says that it has room. */
class Writer {
  readonly taken: WatchMessage[] = [];
  hasRoom = true;
  isOver = false;
  error: unknown;
  /** Done in the middle of taking a message. */
  onTake: () => void = () => undefined;

  constructor(readonly stream: Subscription) {
    const over = stream.handOver((message) => {
      this.taken.push(message);
      this.onTake();
      return this.hasRoom;
    });
    assert.ok(over, 'a live stream with nothing to say hands over');
    over.then(
      () => (this.isOver = true),
      (error: unknown) => (this.error = error),
    );
  }

  get revisions(): bigint[] {
    return this.taken.flatMap(({ events }) => events.map(({ revision }) => revision));
  }
}

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

void describe('a writer that is handed messages', () => {
  let clock: ManualClock;
  let log: LogPage['events'];
  let hub: Hub;

  /** The whole of what follows, or what a page of the log has of it. */
  const pageAfter = (after: bigint): LogPage => {
    const events = log.filter(({ revision }) => revision > after);
    return { epoch: 'e', after, through: events.at(-1)?.revision ?? after, events, payload: false };
  };
  const append = (count: number, bytes = 0): void => {
    const from = log.length;
    const added = Array.from({ length: count }, (_, index) =>
      sampleEvent(BigInt(from + index + 1), { statusMessage: 'x'.repeat(bytes) }),
    );
    log = [...log, ...added];
  };
  const publish = (count: number, bytes = 0): void => {
    append(count, bytes);
    hub.publish(pageAfter(hub.position ?? 0n));
  };
  /** A stream that has sent all there was and is live. */
  const live = async (): Promise<Subscription> => {
    const stream = hub.open(MATCH_ALL, false, 'e', hub.position ?? 0n, BOOKMARK_MS);
    assert.equal((await stream.next())?.kind, 'OPENED');
    const next = stream.next();
    await settle();
    assert.equal(stream.state, 'live');
    publish(1);
    assert.equal((await next)?.kind, 'EVENTS');
    return stream;
  };

  beforeEach(() => {
    clock = new ManualClock();
    log = [];
    hub = new Hub({
      clock,
      readPage: (after) => Promise.resolve(pageAfter(after)),
      onDemand: () => undefined,
      onForeign: () => undefined,
      limits: { ageMs: undefined, stallMs: 600_000 },
    });
  });

  void test('has each in the moment at which it is published, and is not taken for one that stands still', async () => {
    const writer = new Writer(await live());
    publish(2);
    publish(1);
    assert.deepEqual(writer.revisions, [2n, 3n, 4n]);
    await clock.pass(5000);
    assert.equal(writer.stream.stalledMs(clock.now()), 0);
    assert.equal(writer.stream.heldBytes, 0);
    assert.equal(writer.isOver, false);
  });

  void test('has no more without room, and goes on with the very next one', async () => {
    const writer = new Writer(await live());
    writer.hasRoom = false;
    // More than one message.
    publish(3, LIMITS.responseBytes);
    await settle();
    assert.equal(writer.isOver, true);
    assert.deepEqual(writer.revisions, [2n]);
    await clock.pass(5000);
    assert.equal(writer.stream.stalledMs(clock.now()), 5000);
    assert.ok(writer.stream.heldBytes >= 2 * LIMITS.responseBytes);
    assert.equal(
      writer.stream.handOver(() => true),
      undefined,
    );
    const rest = [await writer.stream.next(), await writer.stream.next()];
    assert.deepEqual(
      rest.map((message) => message?.events.map(({ revision }) => revision)),
      [[3n], [4n]],
    );
  });

  void test('has a bookmark when it is due, at the place to which all was sent', async () => {
    const writer = new Writer(await live());
    publish(1);
    await clock.pass(BOOKMARK_MS);
    publish(1);
    await clock.pass(BOOKMARK_MS);
    assert.deepEqual(
      writer.taken.map(({ kind, revision }) => [kind, revision]),
      [
        ['EVENTS', 2n],
        ['BOOKMARK', 2n],
        ['EVENTS', 3n],
        ['BOOKMARK', 3n],
      ],
    );
    assert.equal(writer.stream.stalledMs(clock.now() + 5000), 0);
  });

  void test('has no bookmark that is late before the page that is just published', async () => {
    const writer = new Writer(await live());
    clock.skip(BOOKMARK_MS + 1);
    publish(1);
    assert.deepEqual(
      writer.taken.map(({ kind }) => kind),
      ['EVENTS'],
    );
    await clock.pass(0);
    assert.deepEqual(
      writer.taken.map(({ kind, revision }) => [kind, revision]),
      [
        ['EVENTS', 2n],
        ['BOOKMARK', 2n],
      ],
    );
  });

  void test('is left when the stream is ended, and pulls the last token and the reason', async () => {
    const writer = new Writer(await live());
    hub.endAll(new BatonError('SERVER_STOPPING', 'over'));
    await settle();
    assert.equal(writer.isOver, true);
    assert.deepEqual(writer.taken, []);
    const last = await writer.stream.next();
    assert.deepEqual([last?.kind, last?.revision], ['BOOKMARK', 1n]);
    await assert.rejects(writer.stream.next(), /over/);
  });

  void test('is left when the stream has to read the log again, and misses nothing', async () => {
    const writer = new Writer(await live());
    publish(1);
    hub.disperse();
    append(2);
    await settle();
    assert.equal(writer.isOver, true);
    const next = await writer.stream.next();
    assert.deepEqual(
      next?.events.map(({ revision }) => revision),
      [3n, 4n],
    );
  });

  void test('that fails does so alone', async () => {
    const failing = new Writer(await live());
    const other = new Writer(await live());
    failing.onTake = () => {
      throw new Error('cannot be encoded');
    };
    publish(1);
    await settle();
    assert.match(String(failing.error), /cannot be encoded/);
    assert.deepEqual(other.revisions, [3n]);
    publish(1);
    assert.deepEqual(other.revisions, [3n, 4n]);
  });

  for (const [what, message] of [
    ['a change', () => publish(2, LIMITS.responseBytes)],
    ['a bookmark', () => void clock.pass(BOOKMARK_MS)],
  ] as const) {
    void test(`that goes away while it takes ${what} gets nothing more, and leaves no timer`, async () => {
      const writer = new Writer(await live());
      writer.onTake = () => writer.stream.close();
      message();
      await settle();
      assert.equal(writer.isOver, true);
      assert.equal(writer.taken.length, 1);
      assert.equal(hub.liveCount, 0);
      // The hub looks after its streams and the pages that they have read once more.
      await clock.pass(LIMITS.sharedPageMs);
      assert.equal(clock.timers, 0);
    });
  }
});
