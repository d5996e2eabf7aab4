/** Pages of the log that streams which catch up have in common; see src/watch/shared_pages.ts. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { BatonError, type ErrorReason } from '../../src/base/errors.js';
import { LIMITS } from '../../src/base/limits.js';
import { MATCH_ALL } from '../../src/run/filter.js';
import { Hub } from '../../src/watch/hub.js';
import type { LogPage } from '../../src/watch/message.js';
import { SharedPages } from '../../src/watch/shared_pages.js';
import { ManualClock } from '../support/manual_clock.js';
import { sampleEvent } from '../support/rpc_fake.js';
import { Signal } from '../support/wait.js';

void describe('pages that streams have in common', () => {
  let clock: ManualClock;
  let reads: string[];
  /** What the next readings come to, by revision; a page with one event where nothing is said. */
  let outcomes: Map<bigint, (() => Promise<LogPage>)[]>;
  let pages: SharedPages;

  const pageAfter = (after: bigint, events = 1): LogPage => ({
    epoch: 'e',
    after,
    through: after + BigInt(events),
    events: Array.from({ length: events }, (_, index) => sampleEvent(after + BigInt(index + 1))),
    payload: false,
  });
  const next = (after: bigint, ...readings: (() => Promise<LogPage>)[]): void =>
    void outcomes.set(after, readings);
  const refuse = (reason: ErrorReason) => () => Promise.reject(new BatonError(reason, 'refused'));
  const reasonOf = (reading: Promise<LogPage>): Promise<string> =>
    reading.then(
      () => 'none',
      (error: unknown) => (error instanceof BatonError ? error.reason : String(error)),
    );

  beforeEach(() => {
    clock = new ManualClock();
    [reads, outcomes] = [[], new Map()];
    pages = new SharedPages(clock, (after, payload, epoch) => {
      reads.push(`${epoch} ${after} ${payload}`);
      return outcomes.get(after)?.shift()?.() ?? Promise.resolve(pageAfter(after));
    });
  });

  void test('are read once for those that ask at the same time, and soon after', async () => {
    const [one, two] = await Promise.all([pages.read(5n, false, 'e'), pages.read(5n, false, 'e')]);
    await clock.pass(LIMITS.sharedPageMs - 1);
    assert.ok(one === two && one === (await pages.read(5n, false, 'e')));
    assert.equal(reads.length, 1);
  });

  void test('differ by revision, payload and log', async () => {
    await pages.read(5n, false, 'e');
    await pages.read(6n, false, 'e');
    await pages.read(5n, true, 'e');
    await pages.read(5n, false, 'f');
    assert.deepEqual(reads, ['e 5 false', 'e 6 false', 'e 5 true', 'f 5 false']);
  });

  void test('are read anew when they are older, and nothing is kept of them meanwhile', async () => {
    await pages.read(5n, false, 'e');
    await clock.pass(LIMITS.sharedPageMs);
    assert.equal(clock.timers, 0);
    await pages.read(5n, false, 'e');
    assert.equal(reads.length, 2);
  });

  void test('are few', async () => {
    const all = Array.from({ length: LIMITS.sharedPages + 1 }, (_, index) => BigInt(index));
    for (const after of all) await pages.read(after, false, 'e');
    await pages.read(1n, false, 'e');
    assert.equal(reads.length, all.length);
    await pages.read(0n, false, 'e');
    assert.equal(reads.length, all.length + 1);
  });

  void test('are not kept where the log ended, which is true for the moment only', async () => {
    const gate = new Signal();
    next(5n, async () => {
      await gate.promise;
      return pageAfter(5n, 0);
    });
    const together = [pages.read(5n, false, 'e'), pages.read(5n, false, 'e')];
    gate.send();
    for (const page of await Promise.all(together)) assert.equal(page.events.length, 0);
    assert.equal((await pages.read(5n, false, 'e')).events.length, 1);
    assert.equal(reads.length, 2);
  });

  void test('are not refused to one because they were refused to another', async () => {
    next(5n, refuse('RESUME_TOKEN_FUTURE'));
    const [first, second] = [pages.read(5n, false, 'e'), pages.read(5n, false, 'e')];
    assert.equal(await reasonOf(first), 'RESUME_TOKEN_FUTURE');
    assert.equal((await second).events.length, 1);
  });

  void test('are asked for once while the database is away', async () => {
    next(5n, refuse('DATABASE_UNAVAILABLE'));
    const reasons = await Promise.all(Array.from({ length: 3 }, () => reasonOf(pages.read(5n, false, 'e'))));
    assert.deepEqual(
      reasons,
      Array.from({ length: 3 }, () => 'DATABASE_UNAVAILABLE'),
    );
    assert.equal(reads.length, 1);
    assert.equal((await pages.read(5n, false, 'e')).events.length, 1);
  });

  void test('are read once for all streams of a hub that catch up together', async () => {
    const asked: bigint[] = [];
    const hub = new Hub({
      clock,
      readPage: (after) => {
        asked.push(after);
        return Promise.resolve(pageAfter(after));
      },
      onDemand: () => undefined,
      onForeign: () => undefined,
      limits: { ageMs: undefined, stallMs: 60_000 },
    });
    const streams = Array.from({ length: 10 }, () => hub.open(MATCH_ALL, false, 'e', 0n, 60_000));
    await Promise.all(
      streams.map(async (stream) => {
        assert.equal((await stream.next())?.kind, 'OPENED');
        for (const revision of [1n, 2n, 3n]) assert.equal((await stream.next())?.revision, revision);
        stream.close();
      }),
    );
    assert.deepEqual(asked, [0n, 1n, 2n]);
  });
});
