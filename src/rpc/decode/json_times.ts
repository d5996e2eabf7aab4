import type { DescField, DescMessage } from '@bufbuild/protobuf';

const TIMESTAMP =
  /^(\d{4})-(\d{2})-(\d{2})T(\d{2}):(\d{2}):(\d{2})(?:\.\d{1,9})?(?:Z|([+-])(\d{2}):(\d{2}))$/;
const DURATION = /^-?(\d+)(?:\.\d{1,9})?s$/;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const MIN_MS = Date.parse('0001-01-01T00:00:00Z');
const MAX_MS = Date.parse('9999-12-31T23:59:59.999Z');
const MAX_DURATION_SECONDS = 315_576_000_000;

const TIMESTAMP_FORM = 'must be a time as in 2026-01-31T12:00:00Z or 2026-01-31T12:00:00.123456789+01:00';
const DURATION_FORM = 'must be a duration in seconds as in "30s" or "1.5s"';

/**
 * What is wrong with a `google.protobuf.Timestamp` in JSON, or nothing. The rule is RFC 3339's, with upper case letters as
 * ProtoJSON has it. The library leaves it to `Date.parse`, which takes 30 February for 2 March and 24:00 for the next day.
 * A second 60 is refused: neither a Timestamp nor the database has one.
 */
export function timestampProblem(text: string): string | undefined {
  const match = TIMESTAMP.exec(text);
  if (match === null) return TIMESTAMP_FORM;
  const [, year = '', month = '', day = '', hour = '', minute = '', second = '', sign = '+'] = match;
  const [offsetHour = '00', offsetMinute = '00'] = match.slice(8);
  const isInDay = Number(hour) <= 23 && Number(minute) <= 59 && Number(second) <= 59;
  const isOffset = Number(offsetHour) <= 23 && Number(offsetMinute) <= 59;
  if (!isInDay || !isOffset || !isDay(Number(year), Number(month), Number(day)))
    return 'must be a day and a time that exist';
  const localMs = Date.parse(`${year}-${month}-${day}T${hour}:${minute}:${second}Z`);
  const offsetMs = Number(offsetHour) * HOUR_MS + Number(offsetMinute) * MINUTE_MS;
  const ms = sign === '-' ? localMs + offsetMs : localMs - offsetMs;
  if (ms >= MIN_MS && ms <= MAX_MS) return undefined;
  return 'must be from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z';
}

/** Of the proleptic Gregorian calendar, as everywhere on the way. */
function isDay(year: number, month: number, day: number): boolean {
  const isLeapYear = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  const days = [31, isLeapYear ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
  return days !== undefined && day >= 1 && day <= days;
}

/**
 * What is wrong with a `google.protobuf.Duration` in JSON, or nothing. The library also takes what has more behind the
 * `s`, and fails at a tenth digit.
 */
export function durationProblem(text: string): string | undefined {
  const match = DURATION.exec(text);
  if (match === null) return DURATION_FORM;
  if (Number(match[1]) <= MAX_DURATION_SECONDS) return undefined;
  return `must be at most ${MAX_DURATION_SECONDS} seconds`;
}

const RULES: ReadonlyMap<string, { readonly form: string; readonly problem: typeof timestampProblem }> =
  new Map([
    ['google.protobuf.Timestamp', { form: TIMESTAMP_FORM, problem: timestampProblem }],
    ['google.protobuf.Duration', { form: DURATION_FORM, problem: durationProblem }],
  ]);

/** @param path in the names of the `.proto`; to be called at once, or not at all */
export type ReportJson = (path: () => string, problem: string) => void;

/** Reports every time and duration in the JSON of a message that is none. What has another form is not looked at. */
export function checkTimes(desc: DescMessage, json: unknown, report: ReportJson): void {
  visit(desc, json, [], report);
}

function visit(desc: DescMessage, json: unknown, trail: string[], report: ReportJson): void {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) return;
  const members = json as Readonly<Record<string, unknown>>;
  for (const { field, message } of fieldsWithTimes(desc)) {
    for (const name of new Set([field.jsonName, field.name])) {
      if (!Object.hasOwn(members, name)) continue;
      const value = members[name];
      const items: readonly unknown[] = field.fieldKind === 'list' && Array.isArray(value) ? value : [value];
      const isList = items === value;
      items.forEach((item, index) => {
        trail.push(isList ? `${field.name}[${index}]` : field.name);
        judge(message, item, trail, report);
        trail.pop();
      });
    }
  }
}

/** Null stands for a field that is absent. */
function judge(message: DescMessage, value: unknown, trail: string[], report: ReportJson): void {
  const rule = RULES.get(message.typeName);
  if (rule === undefined) return visit(message, value, trail, report);
  if (value === null) return;
  const problem = typeof value === 'string' ? rule.problem(value) : rule.form;
  if (problem !== undefined) report(() => trail.join('.'), problem);
}

interface FieldWithTimes {
  readonly field: DescField;
  readonly message: DescMessage;
}

const known = new Map<DescMessage, readonly FieldWithTimes[]>();

/** The fields of a message that are times or may have some inside. The contract has no message inside of itself. */
function fieldsWithTimes(desc: DescMessage): readonly FieldWithTimes[] {
  let fields = known.get(desc);
  if (fields === undefined) {
    fields = desc.fields.flatMap((field) => {
      const { message } = field;
      if (message === undefined || field.fieldKind === 'map') return [];
      const isIn = RULES.has(message.typeName) || fieldsWithTimes(message).length > 0;
      return isIn ? [{ field, message }] : [];
    });
    known.set(desc, fields);
  }
  return fields;
}
