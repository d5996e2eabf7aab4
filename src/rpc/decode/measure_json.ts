import type { Measure } from './measure.js';

const QUOTE = 0x22;
const COMMA = 0x2c;
const BACKSLASH = 0x5c;
/** `[` and `{` but for this bit, and so `]` and `}`. */
const BRACE_BIT = 0x20;
const OPEN = 0x5b;
const CLOSE = 0x5d;
const LAST_SPACE = 0x20;

/**
 * Measures JSON text: one pass over its bytes, which keeps nothing of them. Whether it is JSON at all is for
 * `JSON.parse` to say; what is not has no more values than what this counts.
 *
 * @returns how many members and items all its objects and lists have
 */
export function measureJson(bytes: Uint8Array, measure: Measure): number {
  let count = 0;
  let depth = 0;
  let hasOpened = false;
  for (let at = 0; at < bytes.length; at += 1) {
    const byte = bytes[at] ?? 0;
    if (byte <= LAST_SPACE) continue;
    const bracket = byte & ~BRACE_BIT;
    const isClose = bracket === CLOSE;
    if ((hasOpened && !isClose) || byte === COMMA) {
      count += 1;
      measure.add(1);
    }
    hasOpened = bracket === OPEN;
    if (hasOpened) {
      depth += 1;
      measure.judgeDepth(depth);
    } else if (isClose) depth -= 1;
    else if (byte === QUOTE) at = endOfString(bytes, at);
  }
  return count;
}

function endOfString(bytes: Uint8Array, start: number): number {
  let at = start + 1;
  while (at < bytes.length && bytes[at] !== QUOTE) at += bytes[at] === BACKSLASH ? 2 : 1;
  return at;
}
