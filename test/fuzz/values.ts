/** Values that programs get wrong. */
import type { Prng } from '../support/log_prng.js';

export const ODD_TEXTS = [
  ...['', ' ', '\0', 'a\0b', '\n', '\r\nx-injected: 1', '\ufeff', '\u202eabc', '\u2028', '\u0085'],
  ...['\ud800', 'x\udfff', '\udc00\ud800', 'ÿ', '😀', '👩‍👩‍👧‍👦', 'e\u0301', 'İıſK'],
  ...['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', 'length', '$ref', 'then'],
  ...['null', 'undefined', 'NaN', 'Infinity', '-0', '1e400', '9007199254740993', '0x10', 'true', '[]', '{}'],
  ...[
    "'; drop table baton.runs; --",
    '\\',
    '"',
    '%',
    '%s%n',
    '${1}',
    '$1',
    '{a,b}',
    '../../x',
    '<b>',
    '\u{10ffff}',
  ],
  ...['2026-02-30T00:00:00Z', '2026-01-01T24:00:00Z', '-1s', '315576000001s', 'oldest', '*', '@', ':', '/'],
  ...[
    '00000000-0000-0000-0000-000000000000',
    'FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF',
    '01a22450-3c76-707e-8d84',
  ],
] as const;

/** Around the limits that the contract names, in characters. */
const LENGTHS = [62, 63, 64, 128, 129, 256, 257, 1024, 1025, 4096, 4097, 40_000] as const;
const UNITS = ['x', 'é', '😀', '\0', '"', 'aé'] as const;

export const INTEGERS = [
  ...[0n, 1n, -1n, 2n, 9n, 10n, 100n, 101n, 1000n, 1001n, 86_400n, 2n ** 31n - 1n, -(2n ** 31n), 2n ** 31n],
  ...[2n ** 32n - 1n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 53n + 1n, -(2n ** 53n) - 1n],
  ...[2n ** 63n - 1n, -(2n ** 63n), 253_402_300_799n, 253_402_300_800n, -62_135_596_800n, -62_135_596_801n],
  ...[315_576_000_000n, 315_576_000_001n, 999_999_999n, 1_000_000_000n, -999_999_999n],
] as const;

export const DOUBLES = [
  ...[0, -0, 1, -1, 0.5, 1.5, 1e-320, Number.MIN_VALUE, Number.MAX_VALUE, -Number.MAX_VALUE, Number.EPSILON],
  ...[NaN, Infinity, -Infinity, 2 ** 53, 2 ** 53 - 1, 2 ** 53 + 2, -(2 ** 53), 1e21, 1e-7, 0.1 + 0.2],
] as const;

/** How JSON may spell a number, rightly or not. */
export const JSON_NUMBERS = [
  ...['1e400', '-1e400', '1e-400', '-0', '0.0', '1E2', '9007199254740993', '123456789012345678901234567890'],
  ...['"1"', '" 1"', '"1e2"', '"0x10"', '"NaN"', '"Infinity"', '"-Infinity"', '""', 'NaN', '01', '1.', '+1'],
  ...['null', 'true', '[]', '{}', '1.5', '-1', '"9223372036854775808"'],
] as const;

export function oddText(prng: Prng, most: number): string {
  if (prng.chance(0.7)) return prng.pick(ODD_TEXTS);
  const unit = prng.pick(UNITS);
  return unit.repeat(Math.max(1, Math.floor(Math.min(prng.pick(LENGTHS), most) / unit.length)));
}

/** A text with one character exchanged: a token that was never given. */
export function withOneFlip(prng: Prng, text: string): string {
  if (text === '') return 'x';
  const at = prng.between(0, text.length - 1);
  const flipped = String.fromCharCode(text.charCodeAt(at) ^ (1 << prng.between(0, 6)));
  return text.slice(0, at) + flipped + text.slice(at + 1);
}

/** UTF-8, but for surrogates without a partner, which get the bytes that they would have if they were allowed. */
export function utf8(text: string): Buffer {
  if (text.isWellFormed()) return Buffer.from(text);
  return Buffer.concat(
    Array.from(text, (char) => {
      const code = char.charCodeAt(0);
      if (char.isWellFormed()) return Buffer.from(char);
      return Buffer.from([0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)]);
    }),
  );
}
