/** Bytes and texts with a few faults in them. */
import type { Prng } from '../support/log_prng.js';

const BYTES = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x22] as const;
/** As lengths these reach beyond what is there, or beyond what anybody has. */
const LENGTHS = [
  [0xff, 0x7f],
  [0xff, 0xff, 0xff, 0xff, 0x0f],
  [...Array<number>(9).fill(0xff), 0x01],
] as const;
const TEXTS = [
  ...[
    '"',
    '\\',
    '\\u0000',
    '\\ud800',
    '\\uZZZZ',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    'null',
    '1e999',
    '-',
    '\0',
    '\ufeff',
  ],
  ...[
    '[[[[[[[[[[[[[[[[',
    '{"a":{"a":{"a":{"a":',
    '/**/',
    'NaN',
    "'",
    '"__proto__":{"x":1},',
    '"":""',
    '\u2028',
  ],
] as const;

/** @param other bytes of another input, to splice with */
export function mutateBytes(prng: Prng, bytes: Buffer, other: Buffer): Buffer {
  let result: Buffer = bytes;
  for (let count = prng.between(1, 4); count > 0; count -= 1) result = mutateOnce(prng, result, other);
  return result;
}

function mutateOnce(prng: Prng, bytes: Buffer, other: Buffer): Buffer {
  const at = prng.between(0, bytes.length);
  const to = prng.between(at, Math.min(bytes.length, at + 16));
  const replaced = (with_: Uint8Array, end = to): Buffer =>
    Buffer.concat([bytes.subarray(0, at), with_, bytes.subarray(end)]);
  switch (prng.pick(['flip', 'set', 'insert', 'delete', 'repeat', 'truncate', 'splice', 'length'] as const)) {
    case 'flip':
      return at === bytes.length
        ? bytes
        : replaced(Buffer.of(bytes[at]! ^ (1 << prng.between(0, 7))), at + 1);
    case 'set':
      return replaced(Buffer.of(prng.pick(BYTES)), at + 1);
    case 'insert':
      return replaced(
        Buffer.from(Array.from({ length: prng.between(1, 8) }, () => prng.between(0, 255))),
        at,
      );
    case 'delete':
      return replaced(Buffer.alloc(0));
    case 'repeat':
      return replaced(
        Buffer.concat(Array.from({ length: prng.between(2, 30) }, () => bytes.subarray(at, to))),
      );
    case 'truncate':
      return bytes.subarray(0, at);
    case 'splice':
      return Buffer.concat([bytes.subarray(0, at), other.subarray(prng.between(0, other.length))]);
    case 'length':
      return replaced(Buffer.from(prng.pick(LENGTHS)), at + 1);
  }
}

export function mutateText(prng: Prng, text: string): string {
  let result = text;
  for (let count = prng.between(1, 3); count > 0; count -= 1) {
    const at = prng.between(0, result.length);
    const to = prng.chance(0.3) ? at : prng.between(at, Math.min(result.length, at + 8));
    if (prng.chance(0.1)) result = result.slice(0, at);
    else result = result.slice(0, at) + prng.pick(TEXTS) + result.slice(to);
  }
  return result;
}
