import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BatonError } from '../../src/base/errors.js';
import { AbortableSignal } from '../../src/rpc/call_signal.js';
import type { CallSignal } from '../../src/service/api.js';
import { fc } from '../support/seed.js';

const LISTENERS = 3;
const listener = fc.nat({ max: LISTENERS - 1 });
/** What is done with a signal; what listener `index` does when it is called is told apart, in `removes`. */
const step = fc.oneof(
  fc.record({ does: fc.constant('add' as const), index: listener }),
  fc.record({ does: fc.constant('remove' as const), index: listener }),
  fc.constant({ does: 'abort' as const, index: 0 }),
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

/** What the listeners and a reader of the signal see of these steps. Each listener removes another when it is called. */
function seen(
  signal: CallSignal,
  abort: () => void,
  steps: readonly Step[],
  removes: readonly number[],
): unknown[] {
  const events: unknown[] = [];
  const listeners = removes.map((other, index) => (): void => {
    events.push(['called', index, signal.aborted, signal.reason]);
    signal.removeEventListener('abort', at(other));
  });
  const at = (index: number): (() => void) => listeners[index] ?? ((): void => undefined);
  for (const { does, index } of steps) {
    if (does === 'add') signal.addEventListener('abort', at(index));
    else if (does === 'remove') signal.removeEventListener('abort', at(index));
    else abort();
    events.push([does, signal.aborted, signal.reason]);
  }
  return events;
}

test('the signal of a call does what an AbortSignal does', () => {
  const reason = new BatonError('CANCELED', 'gone');
  const removes = fc.array(listener, { minLength: LISTENERS, maxLength: LISTENERS });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 12 }), removes, (steps, others) => {
      const own = new AbortableSignal();
      const controller = new AbortController();
      assert.deepEqual(
        seen(own, () => own.abort(reason), steps, others),
        seen(controller.signal, () => controller.abort(reason), steps, others),
      );
    }),
    { numRuns: 500 },
  );
});

test('only the first reason of an abort counts', () => {
  const signal = new AbortableSignal();
  signal.throwIfAborted();
  const [first, second] = [new BatonError('CANCELED', 'first'), new BatonError('CANCELED', 'second')];
  signal.abort(first);
  signal.abort(second);
  assert.throws(() => signal.throwIfAborted(), first);
});
