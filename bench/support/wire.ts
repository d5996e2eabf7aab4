/**
 * Just enough of protobuf's wire format: a client that decoded every event in full would cost more than the server
 * whose speed it measures.
 */

/** What a server that streams changes speaks. */
export interface Protocol {
  readonly path: string;
  /** The first message of a client. */
  readonly request: Buffer;
  /** Whether the client ends its side after it. */
  readonly ends: boolean;
  /** Calls back with the revision of each event in a message. */
  readonly forEachRevision: (message: Buffer, visit: (revision: number) => void) => void;
}

interface Reader {
  readonly bytes: Buffer;
  at: number;
}

function varint(reader: Reader): number {
  let [value, factor] = [0, 1];
  for (;;) {
    const byte = reader.bytes[reader.at++] ?? 0;
    value += (byte & 127) * factor;
    if (byte < 128) return value;
    factor *= 128;
  }
}

/** Visits each field that has a length, as the range of its contents; passes over numbers. */
function forEachField(
  bytes: Buffer,
  from: number,
  to: number,
  visit: (field: number, start: number, end: number) => void,
): void {
  const reader = { bytes, at: from };
  while (reader.at < to) {
    const tag = varint(reader);
    if ((tag & 7) === 0) {
      varint(reader);
      continue;
    }
    if ((tag & 7) !== 2) throw new Error(`wire type ${tag & 7} is not expected here`);
    const length = varint(reader);
    const start = reader.at;
    reader.at = start + length;
    visit(tag >> 3, start, reader.at);
  }
}

/** The first number with this tag in a message. */
function numberWith(bytes: Buffer, from: number, to: number, tag: number): number {
  const reader = { bytes, at: from };
  while (reader.at < to) {
    const found = varint(reader);
    if (found === tag) return varint(reader);
    const length = varint(reader);
    if ((found & 7) === 2) reader.at += length;
  }
  throw new Error('an event has no revision');
}

/** A length-prefixed field of fewer than 16,384 bytes. */
function field(number: number, contents: Buffer): Buffer {
  const length =
    contents.length < 128 ? [contents.length] : [(contents.length & 127) | 128, contents.length >> 7];
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...length]), contents]);
}

const WATCH_EVENTS = 2;
const REVISION_TAG = 1 << 3;

const baton: Protocol = {
  path: '/baton.v1.JobService/WatchRuns',
  request: Buffer.alloc(0),
  ends: true,
  forEachRevision(message, visit) {
    forEachField(message, 0, message.length, (number, start, end) => {
      if (number === WATCH_EVENTS) visit(numberWith(message, start, end, REVISION_TAG));
    });
  },
};

/** Field numbers of `WatchResponse`, `Event` and `KeyValue` in etcd's rpc.proto and kv.proto. */
const ETCD_EVENTS = 11;
const ETCD_KV = 2;
const MOD_REVISION_TAG = 3 << 3;
const KEY = Buffer.from('bench');

const etcd: Protocol = {
  path: '/etcdserverpb.Watch/Watch',
  request: field(1, field(1, KEY)),
  ends: false,
  forEachRevision(message, visit) {
    forEachField(message, 0, message.length, (number, start, end) => {
      if (number !== ETCD_EVENTS) return;
      forEachField(message, start, end, (part, kvStart, kvEnd) => {
        if (part === ETCD_KV) visit(numberWith(message, kvStart, kvEnd, MOD_REVISION_TAG));
      });
    });
  },
};

export const PROTOCOLS = { baton, etcd };

/** A `PutRequest` of etcd. */
export function etcdPut(value: Buffer): Buffer {
  return Buffer.concat([field(1, KEY), field(2, value)]);
}

/** The revision in the header of a `PutResponse`. */
export function etcdRevision(response: Buffer): number {
  let revision = 0;
  forEachField(response, 0, response.length, (number, start, end) => {
    if (number === 1) revision = numberWith(response, start, end, MOD_REVISION_TAG);
  });
  return revision;
}

/** A gRPC message, uncompressed. */
export function frame(message: Uint8Array): Buffer {
  const bytes = Buffer.alloc(5 + message.length);
  bytes.writeUInt32BE(message.length, 1);
  bytes.set(message, 5);
  return bytes;
}
