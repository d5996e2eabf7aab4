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
  if (!BEYOND_DOUBLE.test(text)) return JSON.parse(text);
  try {
    return JSON.parse(text, clampNumber);
  } catch (error) {
    // Nested deeper than that goes, by thousands: no answer can hold it, whatever its numbers.
    if (error instanceof RangeError) return JSON.parse(text);
    throw error;
  }
}

function clampNumber(_: string, value: unknown): unknown {
  if (value === Infinity) return Number.MAX_VALUE;
  return value === -Infinity ? -Number.MAX_VALUE : value;
}
