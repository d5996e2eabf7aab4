import type { DescMessage } from '@bufbuild/protobuf';
import type { ReportJson } from './json_times.js';

const STRUCT = 'google.protobuf.Struct';
const PROBLEM = `must be a string: a number here is a double, and an integer beyond ${Number.MAX_SAFE_INTEGER} loses digits`;

/** What the text of every integer beyond 2^53 has. */
const MANY_DIGITS = /\d{16}/;
/** Everything that can stand between the brackets, commas and colons of JSON, but for strings. */
const NUMBER = /-?\d[\d.eE+-]*/y;
const INTEGER = /^-?\d+$/;

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
  for (let at = 0; at < text.length; at += 1) {
    const char = text[at] ?? '';
    const top = open.at(-1);
    if (char === '"') {
      const end = endOfString(text, at);
      // A string that no colon follows is a value, and is overwritten by the next key.
      if (top?.isList === false) top.key = text.slice(at, end + 1);
      at = end;
    } else if (char === '{' || char === '[') {
      const inside = top === undefined ? desc : insideOf(top);
      open.push({ isList: char === '[', inside, key: '', index: 0 });
    } else if (char === '}' || char === ']') open.pop();
    else if (char === ',' && top !== undefined) top.index += 1;
    else if (char === '-' || (char >= '0' && char <= '9')) {
      const literal = numberAt(text, at);
      at += literal.length - 1;
      if (top?.inside === 'struct' && isLarge(literal)) report(() => pathOf(open), PROBLEM);
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
  while (text[at] !== '"' && at < text.length) at += text[at] === '\\' ? 2 : 1;
  return at;
}

function numberAt(text: string, at: number): string {
  NUMBER.lastIndex = at;
  return NUMBER.exec(text)?.[0] ?? '-';
}

function isLarge(literal: string): boolean {
  return literal.length >= 16 && INTEGER.test(literal) && !Number.isSafeInteger(Number(literal));
}

/** In the names of the `.proto`, since all fields on the way to a Struct have the same one in JSON. */
function pathOf(open: readonly Open[]): string {
  const parts = open.map(({ isList, index, key }) =>
    isList ? `[${index}]` : `.${JSON.parse(key) as string}`,
  );
  return parts.join('').slice(1);
}
