import assert from 'node:assert/strict';
import { test } from 'node:test';
import pg from 'pg';
import { parseTimestamp, TIMESTAMPTZ } from '../../src/store/timestamps.js';
import { fc } from '../support/seed.js';

const parseAny = pg.types.getTypeParser(TIMESTAMPTZ) as (text: string) => unknown;

const padded = (value: number, digits: number): string => String(value).padStart(digits, '0');
const upTo = (max: number, min = 0): fc.Arbitrary<string> =>
  fc.integer({ min, max }).map((value) => padded(value, 2));

const year = fc.oneof(
  fc.integer({ min: 1900, max: 2100 }),
  fc.integer({ min: 1, max: 294_276 }),
  fc.constantFrom(1, 99, 100, 999, 1000, 9999, 10_000),
);
const fraction = fc.oneof(
  fc.constant(''),
  fc.nat({ max: 999_999 }).map((micros) => `.${padded(micros, 6).replace(/(?!^)0+$/, '')}`),
);
const zone = fc.oneof(
  { weight: 3, arbitrary: fc.constant('+00') },
  fc.constantFrom('-05', '+05:30', '+14', '-00:25:21', '+01:24'),
);
const text = fc
  .tuple(
    year,
    upTo(12, 1),
    upTo(28, 1),
    upTo(23),
    upTo(59),
    upTo(59),
    fraction,
    zone,
    fc.constantFrom('', '', ' BC'),
  )
  .map(
    ([y, month, day, hour, minute, second, rest, offset, era]) =>
      `${padded(y, 4)}-${month}-${day} ${hour}:${minute}:${second}${rest}${offset}${era}`,
  );

const FIRST = Date.parse('0001-01-01T00:00:00Z');
const LAST = Date.parse('9999-12-31T23:59:59.999Z');

test('a timestamp is the one that the parser of pg gives', () => {
  fc.assert(
    fc.property(fc.oneof(text, fc.constantFrom('infinity', '-infinity')), (written) =>
      // As numbers: of an infinity it gives one. Within the years that protobuf can say, as `parseTimestamp` is.
      assert.equal(
        parseTimestamp(written).getTime(),
        Math.min(Math.max(Number(parseAny(written)), FIRST), LAST),
      ),
    ),
    { numRuns: 5000 },
  );
});

test('every fraction of a second is cut to the same millisecond', () => {
  for (let ms = 0; ms < 1000; ms += 1) {
    const written = `2026-11-26 01:02:03.${padded(ms, 3)}999+00`;
    assert.equal(parseTimestamp(written).getTime(), Date.UTC(2026, 10, 26, 1, 2, 3, ms));
    assert.deepEqual(parseTimestamp(written), parseAny(written));
  }
});
