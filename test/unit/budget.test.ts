import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatonError } from '../../src/base/errors.js';
import { Budget, type Held } from '../../src/rpc/budget.js';
import { RPC_LIMITS } from '../../src/rpc/limits.js';
import { ManualClock } from '../support/manual_clock.js';

const MIB = 1024 * 1024;
const SIZE = 4 * MIB;

const isReason = (reason: string) => (error: unknown) =>
  error instanceof BatonError && error.reason === reason;

/** Adds so many bytes in pieces of 16 KiB. */
function fill(held: Held, bytes: number): void {
  for (let added = 0; added < bytes; added += 16_384) held.add(16_384);
}

test('bytes have a budget, and beyond it a request is told to come again', () => {
  const budget = new Budget(SIZE);
  const [one, other] = [budget.hold(), budget.hold()];
  fill(one, 3 * MIB);
  const before = budget.heldBytes;
  assert.ok(before > 3 * MIB && before < 3.1 * MIB, `${before}`);
  assert.throws(() => fill(other, MIB), isReason('OVERLOADED'));
  other.release();
  other.release();
  assert.equal(budget.heldBytes, before);
  one.release();
  assert.equal(budget.heldBytes, 0);
});

test('a small request is let in when the budget is full', () => {
  const budget = new Budget(SIZE);
  assert.throws(() => fill(budget.hold(), 2 * SIZE), isReason('OVERLOADED'));
  const held = budget.heldBytes;
  const small = budget.hold();
  assert.equal(small.add(RPC_LIMITS.lightRequestBytes - 1000), false);
  assert.equal(budget.heldBytes, held);
  // From here on it is none, and has to have a part for all of it.
  assert.throws(() => small.add(10_000), isReason('OVERLOADED'));
});

test('a request counts by its pieces too', () => {
  const held = new Budget(SIZE).hold();
  assert.throws(() => {
    for (let index = 0; index < SIZE / 200; index += 1) held.add(100);
  }, isReason('OVERLOADED'));
});

test('a request may not come in too many pieces, and in fewer where they are small', () => {
  const rows = [
    [1, RPC_LIMITS.requestCrumbs],
    [RPC_LIMITS.crumbBytes, RPC_LIMITS.requestPieces],
  ] as const;
  for (const [bytes, most] of rows) {
    const held = new Budget(1024 * MIB).hold();
    for (let index = 0; index < most; index += 1) held.add(bytes);
    assert.equal(held.isFlood, false);
    assert.throws(() => held.add(bytes), isReason('INVALID_ARGUMENT'));
    assert.equal(held.isFlood, true);
  }
});

test('once it is full, the slowest makes room, and who comes fast or is whole does not', async () => {
  const clock = new ManualClock();
  const budget = new Budget(SIZE, clock);
  const names = ['stopped', 'slow', 'fast', 'whole'];
  const held = new Map(names.map((name) => [name, budget.hold()]));
  const dropped: string[] = [];
  for (const [name, one] of held) {
    one.onDrop = (error): void => {
      assert.ok(isReason('OVERLOADED')(error));
      dropped.push(name);
    };
    fill(one, 0.9 * MIB);
  }
  held.get('whole')?.whole();
  // What has only begun is not slow.
  const early = budget.hold();
  assert.throws(() => fill(early, MIB), isReason('OVERLOADED'));
  early.release();
  for (let second = 0; second < 4; second += 1) {
    await clock.pass(1000);
    held.get('slow')?.add(1000);
    if (second > 1) held.get('fast')?.add(2.5 * RPC_LIMITS.requestBytesPerSecond);
  }
  const next = budget.hold();
  fill(next, MIB);
  assert.deepEqual(dropped, ['stopped']);
  fill(budget.hold(), 0.9 * MIB);
  assert.deepEqual(dropped, ['stopped', 'slow']);
  assert.throws(() => fill(budget.hold(), MIB), isReason('OVERLOADED'));
  assert.deepEqual(dropped, ['stopped', 'slow']);
  for (const one of [...held.values(), next]) one.release();
});
