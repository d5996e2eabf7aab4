/** The requests of `hurt`: what is sent, and over which transports. */
import {
  ARRAY_OF_1_MB,
  BAD_LABELS,
  BAD_RUN_IDS,
  BATCH_OF_20_KB,
  BOMB,
  DEEP,
  EMPTY_ITEMS,
  EMPTY_LEASES,
  GET_LARGE_RUN,
  HEAVY_BATCH,
  HEAVY_STRUCT,
  LONG_STRING,
  MANY_CLAIMS,
  MANY_RUNS,
  NANS,
  NANS_UNDER_LONG_KEY,
  OBJECTS,
  STATES,
  STRING_OF_1_MIB,
  UNKNOWN_FIELDS,
  ZEROS,
  type MakeBytes,
} from './hostile_bytes.js';

/** How a request travels. `gRPC` is on its own port, the others on the HTTP port; `reset`, `abort` and `pieces` get no answer. */
export const WAYS = [
  ...['gRPC', 'gRPC on HTTP', 'gRPC gzip', 'gRPC-Web', 'Connect', 'Connect JSON', 'Connect JSON gzip'],
  ...['Connect br', 'Connect GET br', 'reset, gRPC port', 'reset, HTTP port', 'abort, gRPC on HTTP'],
  ...['pieces, gRPC port', 'pieces, HTTP port'],
] as const;
export type Way = (typeof WAYS)[number];

export interface Hostile {
  readonly method: string;
  readonly make: MakeBytes;
  readonly ways: readonly Way[];
  /** Beside those of its protocol. */
  readonly headers?: Readonly<Record<string, string>>;
  /** It needs many large runs in the database. */
  readonly needsLargeRuns?: boolean;
}

const BINARY = ['gRPC', 'gRPC-Web', 'Connect'] as const;
const EACH = [...BINARY, 'Connect JSON'] as const;

export const HOSTILE: Readonly<Record<string, Hostile>> = {
  'NaN under a long key': { method: 'CreateRun', make: NANS_UNDER_LONG_KEY, ways: BINARY },
  'many NaN': { method: 'CreateRun', make: NANS, ways: BINARY },
  'many states': {
    method: 'ListRuns',
    make: STATES,
    ways: [...EACH, 'gRPC gzip', 'Connect br', 'Connect GET br'],
  },
  'many bad ids': { method: 'ListRuns', make: BAD_RUN_IDS, ways: EACH },
  'many bad labels': { method: 'CreateRun', make: BAD_LABELS, ways: EACH },
  'unknown fields': { method: 'CreateRun', make: UNKNOWN_FIELDS, ways: EACH },
  'empty items': { method: 'BatchCreateRuns', make: EMPTY_ITEMS, ways: [...EACH, 'gRPC gzip'] },
  'empty updates': { method: 'BatchUpdateStatus', make: EMPTY_ITEMS, ways: ['gRPC', 'Connect JSON'] },
  'empty leases': { method: 'ExtendLeases', make: EMPTY_LEASES, ways: ['gRPC', 'Connect', 'Connect JSON'] },
  zeros: { method: 'CreateRun', make: ZEROS, ways: [...EACH, 'Connect JSON gzip'] },
  objects: { method: 'CreateRun', make: OBJECTS, ways: EACH },
  'an array of 1 MB': { method: 'CreateRun', make: ARRAY_OF_1_MB, ways: ['Connect JSON'] },
  'a heavy Struct': { method: 'CreateRun', make: HEAVY_STRUCT, ways: EACH },
  'a heavy batch': { method: 'BatchCreateRuns', make: HEAVY_BATCH, ways: EACH },
  'a batch of 20 kB': { method: 'BatchCreateRuns', make: BATCH_OF_20_KB, ways: ['gRPC', 'Connect'] },
  'a text of 16 MiB': { method: 'CreateRun', make: LONG_STRING, ways: EACH },
  'a text of 1 MiB': { method: 'CreateRun', make: STRING_OF_1_MIB, ways: ['Connect JSON'] },
  'deep nesting': { method: 'CreateRun', make: DEEP, ways: ['Connect JSON'] },
  'a bomb': { method: 'CreateRun', make: BOMB, ways: ['gRPC gzip', 'Connect JSON gzip', 'Connect br'] },
  'a list of large runs': {
    method: 'ListRuns',
    make: MANY_RUNS,
    ways: ['Connect JSON'],
    needsLargeRuns: true,
  },
  'claims of large runs': {
    method: 'ClaimNext',
    make: MANY_CLAIMS,
    ways: ['Connect JSON'],
    needsLargeRuns: true,
  },
  'a large run': {
    method: 'GetRun',
    make: GET_LARGE_RUN,
    ways: ['gRPC', 'gRPC on HTTP', 'Connect JSON'],
    needsLargeRuns: true,
  },
  'metadata of commas': {
    method: 'GetRun',
    make: GET_LARGE_RUN,
    ways: ['gRPC', 'gRPC on HTTP'],
    headers: Object.fromEntries(['a', 'b', 'c', 'd'].map((name) => [`${name}-bin`, ','.repeat(15_000)])),
    needsLargeRuns: true,
  },
  streams: {
    method: 'GetRun',
    make: () => ({ binary: Buffer.alloc(0) }),
    ways: [
      ...(['reset, gRPC port', 'reset, HTTP port', 'abort, gRPC on HTTP'] as const),
      ...(['pieces, gRPC port', 'pieces, HTTP port'] as const),
    ],
  },
};
