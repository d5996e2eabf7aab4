/** Which of the calls of a stage the next statement serves; see src/service/claim_queue.ts. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LIMITS } from '../../src/base/limits.js';
import { createQueue, takeBatch, type StageQueue, type Waiter } from '../../src/service/claim_queue.js';

function waiter(): Waiter {
  return {
    slot: { workerId: 'w', leaseMs: 0, maxRuns: 1 },
    call: { signal: new AbortController().signal, onUndelivered: () => undefined },
    answer: () => undefined,
    fail: () => undefined,
    ...{ open: true, patient: true, inHand: true, timer: undefined },
  };
}

function queueOf(calls: {
  readonly fresh: number;
  readonly parked?: number;
  readonly work?: number;
}): StageQueue {
  const queue = createQueue({ pipeline: 'ci', stage: 'run' });
  for (let n = 0; n < calls.fresh; n += 1) queue.fresh.add(waiter());
  for (let n = 0; n < (calls.parked ?? 0); n += 1) queue.parked.add(waiter());
  queue.work = calls.work ?? 0;
  return queue;
}

void test('a crowd of new calls is parted, and its halves take turns', () => {
  const queue = queueOf({ fresh: 100 });
  assert.equal(takeBatch(queue, 0).length, 50);
  assert.equal(takeBatch(queue, 50).length, 50);
  assert.equal(takeBatch(queue, 50).length, 0);
});

void test('few new calls go together, beside those parked ones that there is work for', () => {
  const few = LIMITS.groups.partItems;
  const queue = queueOf({ fresh: few, parked: 10, work: 3 });
  assert.equal(takeBatch(queue, 0).length, few + 3);
  assert.equal(queue.parked.size, 7);
});
