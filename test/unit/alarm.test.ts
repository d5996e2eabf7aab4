import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Alarm } from '../../src/base/alarm.js';
import type { Clock } from '../../src/base/clock.js';
import { ManualClock } from '../support/manual_clock.js';

void test('an alarm sets no timer for a sleep that the running one ends in time', async () => {
  const clock = new ManualClock();
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
  await clock.pass(50);
  await earlier;
  const later = alarm.until(100);
  await clock.pass(50);
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
