/** Requests that are small or allowed to their sender and dear to a server that is careless, as bytes. Pure. */
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

/** A length-delimited field of protobuf. */
function field(number: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest & 127) | 128);
  return Buffer.from([...bytes, rest]);
}

const many = (count: number, bytes: Buffer): Buffer => Buffer.alloc(count * bytes.length, bytes);
const text = (chars: number): Buffer => Buffer.alloc(chars, 'x');

/** A google.protobuf.Value with this number. */
function numeric(value: number): Buffer {
  const bytes = Buffer.alloc(9, 0x11);
  bytes.writeDoubleLE(value, 1);
  return bytes;
}

/** A Struct of one list of equal values, under this key. */
const listOf = (key: Buffer, count: number, value: Buffer): Buffer =>
  field(1, Buffer.concat([field(1, key), field(2, field(6, many(count, field(1, value))))]));

const input = (struct: Buffer): Buffer => field(4, struct);
const EMPTY_ITEM = Buffer.from([0x0a, 0]);
const KEY = Buffer.from('a');

/** A request in the forms that it has: binary, JSON or both. */
export interface Bytes {
  readonly binary?: Buffer;
  readonly json?: Buffer;
}

const json = (of: string): Bytes => ({ json: Buffer.from(of) });

/** @param size how large, where 1 is as large as the issue has it and less is for a try */
export type MakeBytes = (size: number) => Bytes;

const scaled = (count: number, size: number): number => Math.max(1, Math.floor(count * size));

export const NANS_UNDER_LONG_KEY: MakeBytes = (size) => ({
  binary: input(listOf(text(scaled(40_000, size)), scaled(6000, size), numeric(NaN))),
});
export const NANS: MakeBytes = (size) => ({
  binary: input(listOf(KEY, scaled(100_000, size), numeric(NaN))),
});

/** Numbers of states that do not exist, packed. */
export const STATES: MakeBytes = (size) => ({
  binary: field(1, field(5, Buffer.alloc(scaled(3_000_000, size)))),
  json: Buffer.from(`{"filter":{"states":[${'0,'.repeat(scaled(3_000_000, size))}0]}}`),
});
export const BAD_RUN_IDS: MakeBytes = (size) => ({
  binary: field(1, many(scaled(1_000_000, size), field(1, text(3)))),
  json: Buffer.from(`{"filter":{"runIds":[${'"xxx",'.repeat(scaled(1_000_000, size))}"x"]}}`),
});
export const BAD_LABELS: MakeBytes = (size) => {
  const count = scaled(500_000, size);
  const label = (index: number): Buffer => field(3, field(1, Buffer.from(` ${index}`)));
  const keys = Array.from({ length: count }, (_, index) => index);
  return {
    binary: Buffer.concat(keys.map(label)),
    json: Buffer.from(`{"labels":{${keys.map((key) => `" ${key}":""`).join()}}}`),
  };
};
export const UNKNOWN_FIELDS: MakeBytes = (size) => {
  const count = scaled(1_000_000, size);
  // Field 99, a varint.
  const names = Array.from({ length: count }, (_, index) => `"x${index}":0`);
  return { binary: many(count, Buffer.from([0x98, 0x06, 0])), json: Buffer.from(`{${names.join()}}`) };
};
export const EMPTY_ITEMS: MakeBytes = (size) => ({
  binary: many(scaled(8_000_000, size), EMPTY_ITEM),
  json: Buffer.from(`{"requests":[${'{},'.repeat(scaled(5_000_000, size))}{}]}`),
});
export const EMPTY_LEASES: MakeBytes = (size) => ({
  binary: many(scaled(8_000_000, size), EMPTY_ITEM),
  json: Buffer.from(`{"leases":[${'{},'.repeat(scaled(5_000_000, size))}{}]}`),
});
export const ZEROS: MakeBytes = (size) => ({
  binary: input(listOf(KEY, scaled(1_400_000, size), numeric(0))),
  json: Buffer.from(`{"input":{"a":[${'0,'.repeat(scaled(8_000_000, size))}0]}}`),
});
export const OBJECTS: MakeBytes = (size) => ({
  // Values that are empty Structs.
  binary: input(listOf(KEY, scaled(3_000_000, size), Buffer.from([0x2a, 0]))),
  json: Buffer.from(`{"input":{"a":[${'{},'.repeat(scaled(5_000_000, size))}{}]}}`),
});
/** An array that stays within 1 MiB. */
export const ARRAY_OF_1_MB: MakeBytes = (size) =>
  json(`{"input":{"a":[${'0,'.repeat(scaled(500_000, size))}0]}}`);

/** As many values as one Struct may have. */
export const HEAVY_STRUCT: MakeBytes = (size) => {
  const count = scaled(65_000, size);
  return {
    binary: input(listOf(KEY, count, numeric(1))),
    ...json(`{"input":{"a":[${'1,'.repeat(count)}1]}}`),
  };
};
/** As many values as one request may have. */
export const HEAVY_BATCH: MakeBytes = (size) => {
  const [items, values] = [scaled(250, size), 990];
  const one = input(listOf(KEY, values, numeric(1)));
  const item = `{"input":{"a":[${'1,'.repeat(values)}1]}}`;
  return {
    binary: many(items, field(1, one)),
    json: Buffer.from(`{"requests":[${Array<string>(items).fill(item).join()}]}`),
  };
};
export const BATCH_OF_20_KB: MakeBytes = (size) => {
  const one = input(field(1, Buffer.concat([field(1, KEY), field(2, field(3, text(20_000)))])));
  return { binary: many(scaled(250, size), field(1, one)) };
};
export const LONG_STRING: MakeBytes = (size) => {
  const chars = scaled(16 * 2 ** 20 - 1000, size);
  return { binary: field(2, text(chars)), json: Buffer.from(`{"repository":"${text(chars).toString()}"}`) };
};
/** As long as an input may be. */
export const STRING_OF_1_MIB: MakeBytes = (size) =>
  json(`{"input":{"a":"${text(scaled(2 ** 20 - 100, size)).toString()}"}}`);
export const DEEP: MakeBytes = (size) => {
  const levels = scaled(2_000_000, size);
  return json(`{"input":{"a":${'['.repeat(levels)}${']'.repeat(levels)}}}`);
};
/** More than a request may have, in a thousandth of its bytes. */
export const BOMB: MakeBytes = (size) => {
  const plain = Buffer.alloc(scaled(256 * 2 ** 20, size), ' ');
  return { binary: plain, json: plain };
};
/** The run of `hurt` that is as large as one may be. */
export const LARGE_RUN_ID = '01890000-0000-7000-8000-000000000001';
export const GET_LARGE_RUN: MakeBytes = () => ({
  ...json(JSON.stringify({ id: LARGE_RUN_ID })),
  binary: field(1, Buffer.from(LARGE_RUN_ID)),
});
export const MANY_RUNS: MakeBytes = () => json('{"pageSize":1000,"filter":{"pipelines":["large"]}}');
export const MANY_CLAIMS: MakeBytes = () =>
  json('{"pipeline":"large","stage":"work","workerId":"bench","maxRuns":1000}');

export const COMPRESS: Readonly<Record<'gzip' | 'br', (bytes: Buffer) => Buffer>> = {
  gzip: (bytes) => gzipSync(bytes, { level: 6 }),
  br: (bytes) => brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 5 } }),
};
