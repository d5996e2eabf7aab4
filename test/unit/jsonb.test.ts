import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseJsonb } from '../../src/store/jsonb.js';
import { assertTook } from '../support/wait.js';

const digits = (count: number): string => '9'.repeat(count);

void test('a number beyond a double is read as the greatest one', () => {
  const max = Number.MAX_VALUE;
  assert.equal(parseJsonb(digits(400)), max);
  assert.equal(parseJsonb(`-${digits(309)}`), -max);
  assert.deepEqual(parseJsonb(`{"a": [${digits(310)}, {"b": -${digits(310)}}], "c": 1}`), {
    a: [max, { b: -max }],
    c: 1,
  });
  assert.deepEqual(parseJsonb(`{"a": 1${'0'.repeat(308)}}`), { a: 1e308 });
  assert.deepEqual(parseJsonb(`{"a": "${digits(400)}"}`), { a: digits(400) });
  const odd = parseJsonb(`{"__proto__": ${digits(400)}}`) as object;
  assert.deepEqual(Object.entries(odd), [['__proto__', max]]);
});

void test('what is in a double is read as it is', () => {
  for (const text of ['null', 'true', '"x"', '{}', '[]', '1.5', '-0.1', '{"a": {"__proto__": {"b": [1]}}}'])
    assert.deepEqual(parseJsonb(text), JSON.parse(text), text);
});

void test('a long text costs no more than its length', () => {
  const text = `["${`${digits(308)}x`.repeat(10_000)}"]`;
  const before = process.cpuUsage();
  parseJsonb(text);
  const { user, system } = process.cpuUsage(before);
  assertTook('the CPU for 3 MB', (user + system) / 1000, 50);
});
