import type { JsonObject as ProtoJsonObject } from '@bufbuild/protobuf';
import { durationFromMs, timestampFromMs, type Duration, type Timestamp } from '@bufbuild/protobuf/wkt';
import type { JsonObject } from '../../run/run.js';
import { LIMITS } from '../../base/limits.js';
import { truncate } from '../../base/text.js';
import type { Violations } from '../../base/violations.js';

/** Bounds of the well-known types, see `google/protobuf/timestamp.proto` and `duration.proto`. */
const TIMESTAMP_MIN_SECONDS = -62_135_596_800n;
const TIMESTAMP_MAX_SECONDS = 253_402_300_799n;
const DURATION_MAX_SECONDS = 315_576_000_000n;
const NANOS_MAX = 999_999_999;

/** Cuts below the millisecond. A value out of range gives a violation and undefined. */
export function timestampToDate(
  value: Timestamp | undefined,
  field: string,
  violations: Violations,
): Date | undefined {
  if (value === undefined) return undefined;
  const { seconds, nanos } = value;
  const inRange = seconds >= TIMESTAMP_MIN_SECONDS && seconds <= TIMESTAMP_MAX_SECONDS;
  if (!inRange || nanos < 0 || nanos > NANOS_MAX) {
    violations.add(field, 'must be from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z');
    return undefined;
  }
  return new Date(Number(seconds) * 1000 + Math.floor(nanos / 1e6));
}

export function dateToTimestamp(value: Date | undefined): Timestamp | undefined {
  return value === undefined ? undefined : timestampFromMs(value.getTime());
}

/**
 * A duration in whole milliseconds, rounded up: what is above 0 must not become 0, which often means the default.
 * No duration of this API may be negative. A bad value gives a violation and undefined.
 */
export function durationToMs(
  value: Duration | undefined,
  field: string,
  violations: Violations,
): number | undefined {
  if (value === undefined) return undefined;
  const { seconds, nanos } = value;
  if (seconds < 0n || nanos < 0) {
    violations.add(field, 'must not be negative');
    return undefined;
  }
  if (seconds > DURATION_MAX_SECONDS || nanos > NANOS_MAX) {
    violations.add(field, `must be at most ${DURATION_MAX_SECONDS} seconds`);
    return undefined;
  }
  return Number(seconds) * 1000 + Math.ceil(nanos / 1e6);
}

export function msToDuration(ms: number): Duration {
  return durationFromMs(ms);
}

/** NaN and the infinities have a form in protobuf but none in JSON or in the database's rules. */
export function finite(value: number, field: string, violations: Violations): number {
  if (!Number.isFinite(value)) violations.add(field, 'must be a finite number');
  return value;
}

export function optionalFinite(
  value: number | undefined,
  field: string,
  violations: Violations,
): number | undefined {
  return value === undefined ? undefined : finite(value, field, violations);
}

/**
 * Takes a Struct over as it is, once it holds no number that JSON cannot say: over binary protobuf a Value may be NaN,
 * which `JSON.stringify` would store as null. Its depth and its number of values are those that decoding lets through.
 */
export function structToJson(
  value: ProtoJsonObject | undefined,
  field: string,
  violations: Violations,
): JsonObject | undefined {
  if (value === undefined) return undefined;
  refuseInfinite(value, [field], violations);
  return value;
}

/** @param trail the way to this value, of which a path is made only for a violation that is kept */
function refuseInfinite(value: object, trail: string[], violations: Violations): void {
  const keys = Array.isArray(value) ? undefined : Object.keys(value);
  const items: unknown[] = Array.isArray(value) ? value : Object.values(value);
  for (let index = 0; index < items.length; index += 1) {
    const item = items[index];
    const isInfinite = typeof item === 'number' && !Number.isFinite(item);
    if (!isInfinite && (typeof item !== 'object' || item === null)) continue;
    const key = keys?.[index];
    trail.push(key === undefined ? `[${index}]` : `.${truncate(key, LIMITS.violationFieldChars)}`);
    if (isInfinite) violations.add(() => trail.join(''), 'must be a finite number');
    else refuseInfinite(item as object, trail, violations);
    trail.pop();
  }
}

/** What the database keeps as jsonb is JSON by construction; the domain's type only does not say so. */
export function jsonToStruct(value: JsonObject | undefined): ProtoJsonObject | undefined {
  return value as ProtoJsonObject | undefined;
}
