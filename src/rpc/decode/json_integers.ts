import type { DescMessage } from '@bufbuild/protobuf';
import type { ReportJson } from './json_times.js';

const STRUCT = 'google.protobuf.Struct';
const PROBLEM = `must be a string: a number here is a double, and an integer beyond ${Number.MAX_SAFE_INTEGER} loses digits`;

/** What the text of every integer beyond 2^53 has. */
const MANY_DIGITS = /\d{16}/;
const MANY_CHARS = 16;
const INTEGER = /^-?\d+$/;

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [PLUS, MINUS, POINT, UPPER_E, LOWER_E] = [0x2b, 0x2d, 0x2e, 0x45, 0x65];
const [ZERO, NINE, OPEN_LIST, CLOSE_LIST, OPEN_OBJECT, CLOSE_OBJECT] = [0x30, 0x39, 0x5b, 0x5d, 0x7b, 0x7d];

/** An object or a list that is open, and where in it the text is. */
interface Open {
  readonly isList: boolean;
  /** The message that it or its items are, or that they belong to a Struct; undefined for what is neither. */
  readonly inside: DescMessage | 'struct' | undefined;
  /** As text. */
  key: string;
  index: number;
}

/**
 * Reports the numbers of a request's JSON that are integers beyond 2^53 and stand where the contract has a Struct. They
 * have to be found in the text: `JSON.parse` has rounded them already. One with a fraction or an exponent is what its
 * writer has for a double.
 *
 * @param text that `JSON.parse` has accepted
 */
export function checkIntegers(desc: DescMessage, text: string, report: ReportJson): void {
  if (!MANY_DIGITS.test(text)) return;
  const open: Open[] = [];
  let top: Open | undefined;
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charCodeAt(at);
    if (char === QUOTE) {
      const end = endOfString(text, at);
      // A string that no colon follows is a value, and is overwritten by the next key.
      if (top?.isList === false) top.key = text.slice(at, end + 1);
      at = end;
    } else if (char === OPEN_OBJECT || char === OPEN_LIST) {
      const inside: Open['inside'] = top === undefined ? desc : insideOf(top);
      top = { isList: char === OPEN_LIST, inside, key: '', index: 0 };
      open.push(top);
    } else if (char === CLOSE_OBJECT || char === CLOSE_LIST) {
      open.pop();
      top = open.at(-1);
    } else if (char === COMMA) {
      if (top !== undefined) top.index += 1;
    } else if (char === MINUS || isDigit(char)) {
      const end = endOfNumber(text, at);
      if (top?.inside === 'struct' && isLarge(text, at, end)) report(() => pathOf(open), PROBLEM);
      at = end - 1;
    }
  }
}

/** What an object or list is that begins here. */
function insideOf({ isList, inside, key }: Open): Open['inside'] {
  if (inside === undefined || inside === 'struct' || isList) return inside;
  const name = JSON.parse(key) as string;
  const message = inside.fields.find((field) => field.name === name || field.jsonName === name)?.message;
  return message?.typeName === STRUCT ? 'struct' : message;
}

function endOfString(text: string, start: number): number {
  let at = start + 1;
  for (let char = text.charCodeAt(at); char !== QUOTE && at < text.length; char = text.charCodeAt(at))
    at += char === BACKSLASH ? 2 : 1;
  return at;
}

const isDigit = (char: number): boolean => char >= ZERO && char <= NINE;

/** A number goes on up to what separates values. */
function endOfNumber(text: string, start: number): number {
  let at = start + 1;
  while (isInNumber(text.charCodeAt(at))) at += 1;
  return at;
}

function isInNumber(char: number): boolean {
  return (
    isDigit(char) || char === POINT || char === LOWER_E || char === UPPER_E || char === PLUS || char === MINUS
  );
}

function isLarge(text: string, start: number, end: number): boolean {
  if (end - start < MANY_CHARS) return false;
  const literal = text.slice(start, end);
  return INTEGER.test(literal) && !Number.isSafeInteger(Number(literal));
}

/** In the names of the `.proto`, since all fields on the way to a Struct have the same one in JSON. */
function pathOf(open: readonly Open[]): string {
  const parts = open.map(({ isList, index, key }) =>
    isList ? `[${index}]` : `.${JSON.parse(key) as string}`,
  );
  return parts.join('').slice(1);
}
