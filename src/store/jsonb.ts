/** The type `jsonb`. */
export const JSONB = 3802;

/** What a number beyond a double has at least: PostgreSQL writes all digits of a `numeric`, and never an exponent. */
const BEYOND_DOUBLE = /(?:^|\D)\d{309}/;

/**
 * A jsonb as PostgreSQL writes it. Plain SQL can store numbers that no double holds, and JSON and protobuf have no form for
 * the infinity that they would become: one such run would fail every list, claim and stream that it is in. They are read
 * as the greatest double.
 */
export function parseJsonb(text: string): unknown {
  return BEYOND_DOUBLE.test(text) ? JSON.parse(text, clampNumber) : JSON.parse(text);
}

function clampNumber(_: string, value: unknown): unknown {
  if (value === Infinity) return Number.MAX_VALUE;
  return value === -Infinity ? -Number.MAX_VALUE : value;
}
