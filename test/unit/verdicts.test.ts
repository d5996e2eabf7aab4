/** What a failure says, and when a time is one. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { chooseSeed, commandFor, fc, SEED, seeded } from '../support/seed.js';
import { assertTook, waitFor, within, withSlack } from '../support/wait.js';

const AGAIN = new RegExp(`again: BATON_TEST_SEED=${SEED} npm test -- unit/verdicts\\.test$`, 'm');

test('a seed is fixed, chosen, or of chance', () => {
  assert.equal(chooseSeed(), chooseSeed(''));
  assert.equal(chooseSeed('7'), 7);
  const seeds = new Set(Array.from({ length: 20 }, () => chooseSeed('random')));
  assert.ok(seeds.size > 1 && [...seeds].every(Number.isInteger), [...seeds].join());
  for (const wrong of ['x', '1.5'])
    assert.throws(() => chooseSeed(wrong), /BATON_TEST_SEED is a whole number/);
});

test('a failure says how it is had again', async () => {
  assert.equal(
    commandFor('/a/dist/test/slow/chaos.test.js', 7),
    'BATON_TEST_SEED=7 npm test -- slow/chaos.test',
  );
  const cause = new Error('broken');
  await assert.rejects(
    seeded(() => Promise.reject(cause)),
    (error: Error) => AGAIN.test(error.message) && error.cause === cause,
  );
  assert.equal(await seeded((seed) => Promise.resolve(seed)), SEED);
  assert.throws(() => fc.assert(fc.property(fc.nat(), (n) => n < 50)), AGAIN);
  await assert.rejects(fc.assert(fc.asyncProperty(fc.nat(), (n) => Promise.resolve(n < 50))), AGAIN);
});

test('properties try the same values each time', () => {
  const values = (): number[] => {
    const tried: number[] = [];
    fc.assert(fc.property(fc.nat(), (n) => void tried.push(n)));
    return tried;
  };
  assert.deepEqual(values(), values());
});

test('a time is judged with the slack, and a wait ends', async () => {
  assertTook('a moment', withSlack(20), 20);
  assert.throws(() => assertTook('a moment', withSlack(20) + 1, 20), /a moment took \d+ ms of 20 ms/);
  const never = new Promise<never>(() => undefined);
  await assert.rejects(within(never, 'nothing', 5), new RegExp(`waited ${withSlack(5)} ms for nothing`));
  await assert.rejects(within(never, 'nothing', 5000, 5), /waited 5 ms for nothing/);
  await assert.rejects(
    waitFor(() => false, 'nothing', 5000, 5),
    /waited 5 ms for nothing/,
  );
});
