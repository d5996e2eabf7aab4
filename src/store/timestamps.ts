import pg from 'pg';

/** The type `timestamptz`. */
export const TIMESTAMPTZ = 1184;

const parseAny = pg.types.getTypeParser(TIMESTAMPTZ) as (text: string) => Date | number;

const [DASH, COLON, SPACE, DOT, ZERO] = [0x2d, 0x3a, 0x20, 0x2e, 0x30];
/** `2026-11-26 01:02:03`, to which a fraction of 1 to 6 digits may come, and the zone. */
const SECONDS_CHARS = 19;
const UTC = '+00';

/**
 * A timestamptz as PostgreSQL writes it, cut below the millisecond. What is not a time of a session in UTC in a year of
 * four digits is left to the parser of `pg`, which gives the same for these: it takes 0.5 µs, and this 0.15 µs. An
 * UpdateStatus with claim_next reads eight of them.
 */
export function parseTimestamp(text: string): Date {
  const end = text.length - UTC.length;
  const isPlain =
    text.charCodeAt(4) === DASH &&
    text.charCodeAt(7) === DASH &&
    text.charCodeAt(10) === SPACE &&
    text.charCodeAt(13) === COLON &&
    text.charCodeAt(16) === COLON &&
    (end === SECONDS_CHARS || (end > SECONDS_CHARS + 1 && text.charCodeAt(SECONDS_CHARS) === DOT)) &&
    text.endsWith(UTC);
  const century = isPlain ? twoDigits(text, 0) : 0;
  // `Date.UTC` takes the years 0 to 99 for those of the last century.
  if (century === 0) return withinYears(parseAny(text));
  let ms = 0;
  for (let at = SECONDS_CHARS + 1, unit = 100; at < end && unit >= 1; at += 1, unit /= 10)
    ms += unit * digit(text, at);
  return new Date(
    Date.UTC(
      century * 100 + twoDigits(text, 2),
      twoDigits(text, 5) - 1,
      twoDigits(text, 8),
      twoDigits(text, 11),
      twoDigits(text, 14),
      twoDigits(text, 17),
      ms,
    ),
  );
}

/** What protobuf can say: the years 1 to 9999. SQL may store others, and the infinities, which come as numbers. */
const EARLIEST_MS = Date.parse('0001-01-01T00:00:00Z');
const LATEST_MS = Date.parse('9999-12-31T23:59:59.999Z');

function withinYears(time: Date | number): Date {
  return new Date(Math.min(Math.max(Number(time), EARLIEST_MS), LATEST_MS));
}

function digit(text: string, at: number): number {
  return text.charCodeAt(at) - ZERO;
}

function twoDigits(text: string, at: number): number {
  return digit(text, at) * 10 + digit(text, at + 1);
}
