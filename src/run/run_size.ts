import type { JsonObject, Run } from './run.js';

/**
 * What a run takes as binary protobuf, without encoding it: answers are cut by this. Over JSON the same answer may be
 * larger; nobody refuses that by its size.
 */

/** As deep as a payload may be nested: each level is up to three messages, and most clients take 100 inside each other. */
const DEPTH_MAX = 30;
/** More than the fields of a run, its event and its claim that are no texts take, with the tags and lengths of all. */
const BASE_BYTES = 400;
/** A double, a bool and a null as the one field of a Value. */
const DOUBLE_BYTES = 9;
const SHORT_BYTES = 2;

/** The payload of a run: what is left out where it does not fit. */
export type Payload = Pick<Run, 'input' | 'output' | 'checkpoint'>;

const FIELDS = ['input', 'output', 'checkpoint'] as const;

/** About what a run takes, and never less; Infinity where its payload cannot be encoded, or no client could decode it. */
export function runBytes(run: Run, payload = true): number {
  let bytes = BASE_BYTES + textBytes(run.repository) + textBytes(run.statusMessage);
  bytes += textBytes(run.concurrencyKey) + textBytes(run.workerId) + textBytes(run.requestId);
  bytes += textBytes(run.pipeline) + textBytes(run.stage) + 2 * textBytes(run.status);
  if (run.error !== undefined) bytes += textBytes(run.error.code) + textBytes(run.error.message);
  bytes += labelBytes(run.labels);
  return payload ? bytes + payloadBytes(run) : bytes;
}

/** The payload's part of it. */
export function payloadBytes(payload: Payload): number {
  let bytes = 0;
  for (const field of FIELDS) bytes += fieldBytes(payload[field]);
  return bytes;
}

/** The fields of a payload that cannot be encoded, for people to read. */
export function unreadableFields(payload: Payload): string[] {
  return FIELDS.filter((field) => fieldBytes(payload[field]) === Number.POSITIVE_INFINITY);
}

/** The run as an answer can hold it: without its payload where that cannot be sent, or makes it larger than `maxBytes`. */
export function fitRun(run: Run, maxBytes: number): Run {
  return runBytes(run) <= maxBytes ? run : withoutPayload(run);
}

/** The runs in front that one answer can hold, the first of them in any case. */
export function fitRuns(runs: readonly Run[], maxBytes: number): Run[] {
  return fitItems(
    runs.map((run) => fitRun(run, maxBytes)),
    (run) => runBytes(run),
    maxBytes,
  );
}

/** The same of anything. */
export function fitItems<T>(items: readonly T[], sizeOf: (item: T) => number, maxBytes: number): T[] {
  const fitting: T[] = [];
  let bytes = 0;
  for (const item of items) {
    bytes += sizeOf(item);
    if (fitting.length > 0 && bytes > maxBytes) break;
    fitting.push(item);
  }
  return fitting;
}

/**
 * The runs of an answer that has to name all of them. Those that would make it too large come without whatever can be long;
 * a thousand such runs take less than 1 MiB.
 */
export function shortenRuns(runs: readonly Run[], maxBytes: number): Run[] {
  let bytes = 0;
  return runs.map((run) => {
    bytes += runBytes(run);
    return bytes <= maxBytes ? run : shortened(run);
  });
}

function shortened(run: Run): Run {
  const error = run.error && { ...run.error, message: '' };
  return {
    ...withoutPayload(run),
    ...{ labels: {}, repository: '', concurrencyKey: '', statusMessage: '', error },
  };
}

function withoutPayload(run: Run): Run {
  return { ...run, input: undefined, output: undefined, checkpoint: undefined, payloadOmitted: true };
}

export function fieldBytes(value: JsonObject | undefined): number {
  // The tags of these fields take up to two bytes.
  return value === undefined ? 0 : 1 + delimited(structBytes(value, 1));
}

export function labelBytes(labels: Readonly<Record<string, string>>): number {
  let bytes = 0;
  for (const key in labels) bytes += delimited(textBytes(key) + textBytes(labels[key] ?? ''));
  return bytes;
}

/** Tag, length and content. */
function delimited(bytes: number): number {
  if (bytes < 0x80) return bytes + 2;
  if (bytes < 0x4000) return bytes + 3;
  return bytes < 0x20_0000 ? bytes + 4 : bytes + 6;
}

export function textBytes(text: string): number {
  return delimited(Buffer.byteLength(text));
}

function structBytes(object: JsonObject, depth: number): number {
  let bytes = 0;
  for (const key of Object.keys(object))
    bytes += delimited(textBytes(key) + delimited(valueBytes(object[key], depth + 1)));
  return bytes;
}

function valueBytes(value: unknown, depth: number): number {
  if (depth > DEPTH_MAX) return Number.POSITIVE_INFINITY;
  if (typeof value === 'string') return textBytes(value);
  // What a Struct cannot carry; of numbers that PostgreSQL can store, none is read as such.
  if (typeof value === 'number') return Number.isFinite(value) ? DOUBLE_BYTES : Number.POSITIVE_INFINITY;
  if (typeof value !== 'object' || value === null) return SHORT_BYTES;
  if (!Array.isArray(value)) return delimited(structBytes(value as JsonObject, depth));
  let bytes = 0;
  for (const item of value) bytes += delimited(valueBytes(item, depth + 1));
  return delimited(bytes);
}
