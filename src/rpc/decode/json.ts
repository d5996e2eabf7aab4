import { fromJson, type JsonValue, type Message } from '@bufbuild/protobuf';
import { BatonError } from '../../base/errors.js';
import { DETAIL_REGISTRY } from '../errors.js';
import { RPC_LIMITS } from '../limits.js';
import type { Measure } from './measure.js';
import type { FieldPlan, MessagePlan } from './plan.js';

type Fields = Record<string, unknown>;

/** An object or map that the library would go through once more, and lose `__proto__` of, and where it belongs. */
interface Detached {
  readonly path: readonly (string | number)[];
  readonly value: unknown;
}

/** A typo in a field must not be dropped in silence; connect's own default would. */
const OPTIONS = {
  ignoreUnknownFields: false,
  recursionLimit: RPC_LIMITS.messageDepth,
  registry: DETAIL_REGISTRY,
};

/**
 * Builds a message from a value that `JSON.parse` gave. Objects of the API and maps of texts go into it as they are; all
 * else is read by the library.
 *
 * @throws BatonError INVALID_ARGUMENT where there is more than may be
 */
export function messageFromJson(plan: MessagePlan, json: unknown, measure: Measure): Message {
  const detached: Detached[] = [];
  detach(plan, json, [], detached, measure);
  measure.violations.throwIfAny();
  const message = fromJson(plan.desc, json as JsonValue, OPTIONS);
  for (const { path, value } of detached) attach(message, path, value);
  return message;
}

function attach(message: Message, path: Detached['path'], value: unknown): void {
  let target = message as unknown as Record<string | number, unknown>;
  for (const part of path.slice(0, -1)) target = target[part] as Record<string | number, unknown>;
  const last = path.at(-1);
  if (last !== undefined) target[last] = value;
}

/** What does not have the form that it should is left for the library, which says so. */
function detach(
  plan: MessagePlan,
  json: unknown,
  path: readonly (string | number)[],
  detached: Detached[],
  measure: Measure,
): void {
  if (!isObject(json)) return;
  for (const field of plan.fields) {
    if (field.limit === 0 && field.message === undefined && field.kind !== 'struct') continue;
    for (const name of new Set([field.jsonName, field.name])) {
      if (!Object.hasOwn(json, name)) continue;
      measure.trail.push(field.name);
      if (detachField(field, json[name], [...path, field.localName], detached, measure)) delete json[name];
      measure.trail.pop();
    }
  }
}

/** @returns whether the library shall not see it */
function detachField(
  field: FieldPlan,
  value: unknown,
  path: readonly (string | number)[],
  detached: Detached[],
  measure: Measure,
): boolean {
  if (field.isList) {
    if (Array.isArray(value)) detachItems(field, value, path, detached, measure);
    return false;
  }
  if (!isObject(value)) {
    if (field.kind === 'struct' && value !== null)
      measure.violations.add(() => measure.path(), 'must be an object');
    return false;
  }
  if (field.message !== undefined) {
    detach(field.message, value, path, detached, measure);
    return false;
  }
  if (field.kind === 'struct') measure.judgeStruct(countJson(value));
  else {
    const texts = Object.values(value);
    measure.judgeItems(field, texts.length, true);
    if (!texts.every((text) => typeof text === 'string')) return false;
  }
  detached.push({ path, value });
  return true;
}

function detachItems(
  field: FieldPlan,
  items: readonly unknown[],
  path: readonly (string | number)[],
  detached: Detached[],
  measure: Measure,
): void {
  measure.judgeItems(field, items.length, true);
  const { message } = field;
  if (message === undefined || items.length > field.limit) return;
  items.forEach((item, index) => {
    measure.trail.push(index);
    detach(message, item, [...path, index], detached, measure);
    measure.trail.pop();
  });
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** How many members and items a JSON value and all inside of it have. */
export function countJson(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  const items: unknown[] = Array.isArray(value) ? value : Object.values(value);
  let count = items.length;
  for (const item of items) if (typeof item === 'object') count += countJson(item);
  return count;
}

/** `JSON.parse` keeps the last of two members of one name: what the first one asked for would not be heard. */
export function refuseRepeatedKeys(json: unknown, counted: number): void {
  if (countJson(json) === counted) return;
  throw new BatonError('INVALID_ARGUMENT', 'an object in the JSON has two members of the same name');
}
