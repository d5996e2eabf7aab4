import type { JsonObject } from '@bufbuild/protobuf';
import { LIMITS } from '../base/limits.js';

/**
 * The JSON that a value has now, as `JSON.stringify` sees it.
 *
 * @throws TypeError that says what is wrong with it
 */
export function toPayload(what: string, value: unknown, maxBytes: number): JsonObject {
  const text = stringify(what, value);
  if (!text.startsWith('{')) throw new TypeError(`${what} must be an object`);
  const bytes = new TextEncoder().encode(text).byteLength;
  if (bytes > maxBytes) throw new TypeError(`${what} has ${bytes} bytes of JSON, ${maxBytes} are allowed`);
  const payload = JSON.parse(text) as JsonObject;
  if (!isNestedAtMost(payload, LIMITS.jsonDepth))
    throw new TypeError(`${what} is nested deeper than ${LIMITS.jsonDepth}`);
  const values = countValues(payload);
  if (values > LIMITS.structValues)
    throw new TypeError(`${what} holds ${values} values, ${LIMITS.structValues} are allowed`);
  if (hasProtoKey(payload))
    throw new TypeError(`${what} has the key __proto__, which would be lost on its way`);
  return payload;
}

/** Also undefined and functions, which have no text. */
function stringify(what: string, value: unknown): string {
  try {
    return JSON.stringify(value, refuseLargeIntegers) ?? '';
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new TypeError(`${what} has no JSON form: ${why}`, { cause: error });
  }
}

/** From here on JavaScript writes a number with an exponent, and nobody takes it for an integer. */
const EXPONENT_FROM = 1e21;

/** The numbers of a payload are doubles, and JSON has no bigint: what has lost digits, or would, must not get out. */
function refuseLargeIntegers(key: string, value: unknown): unknown {
  const isLarge =
    typeof value === 'bigint' ||
    (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(Number(value)) < EXPONENT_FROM);
  if (!isLarge) return value;
  const where = key === '' ? 'the value' : `the value of ${JSON.stringify(key)}`;
  const why = typeof value === 'bigint' ? 'is a bigint' : 'is an integer beyond 2^53, which loses digits';
  throw new TypeError(`${where} ${why}: give it as a string`);
}

function isNestedAtMost(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return depth > 0 && Object.values(value).every((inner) => isNestedAtMost(inner, depth - 1));
}

function countValues(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const items = Object.values(value);
  return items.reduce((count: number, inner) => count + countValues(inner), items.length);
}

function hasProtoKey(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return Object.hasOwn(value, '__proto__') || Object.values(value).some(hasProtoKey);
}

/** A text that the service takes: without U+0000 and halves of characters, and cut where it is too long. */
export function toText(value: unknown, maxChars: number): string {
  const text = String(value).replaceAll('\0', '\ufffd').toWellFormed();
  return text.length <= maxChars ? text : `${text.slice(0, maxChars - 1).replace(/[\ud800-\udbff]$/, '')}…`;
}
