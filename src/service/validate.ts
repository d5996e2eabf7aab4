import { LIMITS } from '../base/limits.js';
import { truncate } from '../base/text.js';
import { Violations } from '../base/violations.js';
import type { RunFilter } from '../run/filter.js';
import type { JsonObject } from '../run/run.js';

const NAME = /^[a-z0-9][a-z0-9_-]*$/;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const PRINTABLE_ASCII = /^[\x20-\x7e]*$/;
const TRACE_PARENT = /^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** Collects what is wrong with a request, and knows the rules about its values. */
export class Checks extends Violations {
  /** A collector for a nested message, into the same list. */
  at(path: string): Checks {
    return new Checks(`${this.prefix}${path}.`, this);
  }

  /** Free text. Postgres stores neither U+0000 nor half of a surrogate pair. */
  text(field: string, value: string, maxChars: number): void {
    if (value.length > maxChars)
      this.add(field, `must have at most ${maxChars} characters, has ${value.length}`);
    if (value.includes('\u0000')) this.add(field, 'must not contain U+0000');
    if (!value.isWellFormed()) this.add(field, 'must be well-formed Unicode');
  }

  name(field: string, value: string, maxChars: number = LIMITS.nameChars): void {
    if (value.length < 1 || value.length > maxChars || !NAME.test(value)) {
      this.add(field, `must be 1 to ${maxChars} of a-z, 0-9, _ and -, and start with a letter or digit`);
    }
  }

  /** The items of a call that takes many. Where there are too many, nothing else is worth a look. */
  items(field: string, count: number): void {
    const limit = LIMITS.batchItems;
    if (count >= 1 && count <= limit) return;
    this.add(field, `must have 1 to ${limit} items, has ${count}`);
    if (count > limit) this.throwIfAny();
  }

  uuid(field: string, value: string): void {
    if (!UUID.test(value)) this.add(field, value === '' ? 'is required' : 'must be a UUID in lower case');
  }

  requestId(field: string, value: string): void {
    if (value.length > LIMITS.requestIdChars || !PRINTABLE_ASCII.test(value)) {
      this.add(field, `must be at most ${LIMITS.requestIdChars} printable ASCII characters`);
    }
  }

  traceParent(field: string, value: string): void {
    if (value !== '' && !TRACE_PARENT.test(value)) this.add(field, 'must be a W3C traceparent');
  }

  integer(field: string, value: number, min: number, max: number): void {
    if (!Number.isInteger(value) || value < min || value > max) this.add(field, `must be ${min} to ${max}`);
  }

  number(field: string, value: number, min: number, max: number): void {
    if (!(value >= min && value <= max)) this.add(field, `must be ${min} to ${max}`);
  }

  durationMs(field: string, value: number, minMs: number, maxMs: number): void {
    if (!(value >= minMs && value <= maxMs))
      this.add(field, `must be ${minMs / 1000} s to ${maxMs / 1000} s`);
  }

  labels(
    field: string,
    labels: Readonly<Record<string, string>>,
    maxCount: number = LIMITS.labelCount,
  ): void {
    const keys = Object.keys(labels);
    if (keys.length > maxCount) this.add(field, `must have at most ${maxCount} labels, has ${keys.length}`);
    for (const key of keys.slice(0, LIMITS.labelCount)) {
      const path = `${field}[${JSON.stringify(truncate(key, LIMITS.violationFieldChars))}]`;
      if (key === '') this.add(path, 'the key must not be empty');
      if (key === PROTO_KEY) this.add(path, NO_PROTO_KEY);
      this.text(path, key, LIMITS.labelKeyChars);
      this.text(path, labels[key] ?? '', LIMITS.labelValueChars);
    }
  }

  /**
   * A JSON object of the API, at most so many bytes as JSON text.
   *
   * @returns that text, so that nobody needs to make it again; undefined where there is no valid object
   */
  payload(field: string, value: JsonObject | undefined, maxBytes: number): string | undefined {
    if (value === undefined) return undefined;
    if (!checkJson(value, 1, (problem) => this.add(field, problem))) return undefined;
    const text = JSON.stringify(value);
    const bytes = Buffer.byteLength(text);
    if (bytes > maxBytes) this.add(field, `must have at most ${maxBytes} bytes as JSON, has ${bytes}`);
    return text;
  }

  filter(field: string, filter: RunFilter): void {
    const at = this.at(field);
    const list = (
      name: string,
      values: readonly string[],
      check: (path: string, value: string) => void,
    ): void => {
      if (values.length > LIMITS.filterValues)
        at.add(name, `must have at most ${LIMITS.filterValues} values`);
      values.slice(0, LIMITS.filterValues).forEach((value, index) => check(`${name}[${index}]`, value));
    };
    list('run_ids', filter.runIds, (path, value) => at.uuid(path, value));
    list('pipelines', filter.pipelines, (path, value) => at.name(path, value));
    list('stages', filter.stages, (path, value) => at.name(path, value));
    list('statuses', filter.statuses, (path, value) => at.name(path, value));
    if (filter.states.length > LIMITS.filterValues)
      at.add('states', `must have at most ${LIMITS.filterValues} values`);
    at.text('repository', filter.repository, LIMITS.repositoryChars);
    at.labels('labels', filter.labels);
  }

  /** @returns the page size to use */
  pageSize(value: number): number {
    this.integer('page_size', value, 0, LIMITS.pageSizeMax);
    return value === 0 ? LIMITS.pageSizeDefault : value;
  }
}

/** Walks a JSON value for what jsonb refuses; reports the first problem only, since one is enough to mend it. */
function checkJson(value: unknown, depth: number, report: (problem: string) => void): boolean {
  if (depth > LIMITS.jsonDepth) {
    report(`must be nested at most ${LIMITS.jsonDepth} deep`);
    return false;
  }
  if (typeof value === 'string') return checkJsonText(value, report);
  if (typeof value !== 'object' || value === null) return true;
  if (Array.isArray(value)) return value.every((item) => checkJson(item, depth + 1, report));
  return Object.entries(value).every(
    ([key, item]) =>
      checkJsonText(key, report) && checkJsonKey(key, report) && checkJson(item, depth + 1, report),
  );
}

/**
 * JavaScript's libraries for protobuf and JSON lose an entry of this name, or take it for something else. A client that
 * never sees what another has stored is worse than one that is told.
 */
const PROTO_KEY = '__proto__';
const NO_PROTO_KEY = `must not have the key ${PROTO_KEY}`;

function checkJsonKey(key: string, report: (problem: string) => void): boolean {
  if (key === PROTO_KEY) report(NO_PROTO_KEY);
  return key !== PROTO_KEY;
}

function checkJsonText(text: string, report: (problem: string) => void): boolean {
  if (text.includes('\u0000')) report('must not contain U+0000');
  else if (!text.isWellFormed()) report('must be well-formed Unicode');
  else return true;
  return false;
}
