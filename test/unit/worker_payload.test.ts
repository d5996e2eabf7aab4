/** What a handler gives back becomes a payload as it is, or is refused with a reason: nothing is changed in silence. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toPayload } from '../../src/client/worker_payload.js';

const payload = (value: unknown): unknown => toPayload('the output', value, 1000);

void test('an integer beyond 2^53 in a payload is refused', () => {
  for (const value of [2 ** 53, -(2 ** 53), 2 ** 60, 1e20]) {
    const message =
      'the output has no JSON form: the value of "id" is an integer beyond 2^53, which loses digits: give it as a string';
    assert.throws(() => payload({ id: value }), { name: 'TypeError', message }, String(value));
    assert.throws(() => payload({ list: [0, value] }), /the value of "1" is an integer beyond 2\^53/);
  }
  for (const value of [2 ** 53 - 1, -(2 ** 53 - 1), 1e21, 1e300, 2 ** 52 + 0.5, '9007199254740993', 0])
    assert.deepEqual(payload({ id: value }), { id: value });
});

void test('a bigint in a payload is refused', () => {
  assert.throws(() => payload({ a: { id: 5n } }), {
    name: 'TypeError',
    message: 'the output has no JSON form: the value of "id" is a bigint: give it as a string',
  });
  assert.throws(() => payload(5n), /the output has no JSON form: the value is a bigint/);
  const id = { toJSON: () => '5' };
  assert.deepEqual(payload({ id }), { id: '5' });
});
