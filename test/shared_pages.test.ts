/** Pages of the log that streams which catch up have in common; see src/watch/shared_pages.ts. */
import assert from 'node:assert/strict';
import { beforeEach, describe, test } from 'node:test';
import { Alarm } from '../src/base/alarm.js';
import type { Clock } from '../src/base/clock.js';
import { BatonError, type ErrorReason } from '../src/base/errors.js';
import { LIMITS } from '../src/base/limits.js';
import type { LogPage } from '../src/watch/message.js';
import { SharedPages } from '../src/watch/shared_pages.js';
import { sampleEvent } from './support/rpc-fake.js';
import { Signal } from './support/wait.js';

/** A clock that a test turns. */
class HandClock implements Clock {
  #now = 0;
  readonly #timers = new Map<() => void, number>();

  get timers(): number {
    return this.#timers.size;
  }

  now(): number {
    return this.#now;
  }

  after(delayMs: number, task: () => void): { cancel(): void } {
    const run = (): void => task();
    this.#timers.set(run, this.#now + delayMs);
    return { cancel: () => void this.#timers.delete(run) };
  }

  turn(ms: number): void {
    this.#now += ms;
    for (const [run, at] of [...this.#timers]) {
      if (at <= this.#now && this.#timers.delete(run)) run();
    }
  }
}

void describe('pages that streams have in common', () => {
  let clock: HandClock;
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
    clock = new HandClock();
    [reads, outcomes] = [[], new Map()];
    pages = new SharedPages(clock, (after, payload, epoch) => {
      reads.push(`${epoch} ${after} ${payload}`);
      return outcomes.get(after)?.shift()?.() ?? Promise.resolve(pageAfter(after));
    });
  });

  void test('are read once for those that ask at the same time, and soon after', async () => {
    const [one, two] = await Promise.all([pages.read(5n, false, 'e'), pages.read(5n, false, 'e')]);
    clock.turn(LIMITS.sharedPageMs - 1);
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
    clock.turn(LIMITS.sharedPageMs);
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

  void test('an alarm sets no timer for a sleep that the running one ends in time', async () => {
    let set = 0;
    const counting: Clock = {
      now: () => clock.now(),
      after: (delayMs, task) => {
        set += 1;
        return clock.after(delayMs, task);
      },
    };
    const alarm = new Alarm(counting);
    for (let slept = 0; slept < 3; slept += 1) {
      const sleep = alarm.until(100);
      alarm.wake();
      await sleep;
    }
    assert.equal(set, 1);
    const earlier = alarm.until(50);
    clock.turn(50);
    await earlier;
    const later = alarm.until(100);
    clock.turn(50);
    await later;
    assert.deepEqual([set, clock.timers], [3, 0]);
    await alarm.until(100);
    assert.equal(set, 3, 'a time that has passed is not slept for');
    const canceled = alarm.until(200);
    alarm.wake();
    await canceled;
    alarm.cancel();
    assert.equal(clock.timers, 0);
  });
});
