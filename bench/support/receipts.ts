/**
 * Revisions of the events in one gRPC message of WatchRuns, read from the bytes: decoding every event in full would
 * cost the client more than all of the server's work. An event begins with its revision.
 */
export function forEachRevision(message: Buffer, visit: (revision: number) => void): void {
  const reader = { bytes: message, at: 0 };
  while (reader.at < message.length) {
    const tag = varint(reader);
    if ((tag & 7) === 0) {
      varint(reader);
      continue;
    }
    if ((tag & 7) !== 2) throw new Error(`wire type ${tag & 7} is not expected here`);
    const length = varint(reader);
    const end = reader.at + length;
    if (tag >> 3 === EVENTS_FIELD) {
      if (varint(reader) !== REVISION_TAG) throw new Error('an event does not begin with its revision');
      visit(varint(reader));
    }
    reader.at = end;
  }
}

const EVENTS_FIELD = 2;
const REVISION_TAG = 8;

function varint(reader: { readonly bytes: Buffer; at: number }): number {
  let [value, factor] = [0, 1];
  for (;;) {
    const byte = reader.bytes[reader.at++] ?? 0;
    value += (byte & 127) * factor;
    if (byte < 128) return value;
    factor *= 128;
  }
}

/** When each stream received each revision, in milliseconds after `startMs`; 0 for not at all. */
export class Receipts {
  readonly #times: Float32Array;
  readonly #revisions: number;
  readonly #startMs: number;
  readonly #last: Int32Array;
  doubled = 0;

  constructor(
    private readonly streams: number,
    revisions: number,
  ) {
    this.#revisions = revisions;
    this.#times = new Float32Array(streams * revisions);
    this.#last = new Int32Array(streams);
    this.#startMs = wallClockMs();
  }

  note(stream: number, revision: number, atMs: number): void {
    if (revision >= this.#revisions) throw new Error(`there is no room for revision ${revision}`);
    // On a stream, revisions only grow: anything else was delivered twice or out of order.
    if (revision <= (this.#last[stream] ?? 0)) this.doubled += 1;
    this.#last[stream] = revision;
    this.#times[revision * this.streams + stream] = atMs - this.#startMs;
  }

  /** The revision that every stream has reached. */
  get reached(): number {
    return this.#last.reduce((least, last) => Math.min(least, last), Number.MAX_SAFE_INTEGER);
  }

  /** Milliseconds from each append to each receipt, and how many receipts there are not. */
  latencies(appended: readonly { revision: number; atMs: number }[]): { sorted: Float32Array; lost: number } {
    const values = new Float32Array(appended.length * this.streams);
    let [count, lost] = [0, 0];
    for (const { revision, atMs } of appended) {
      for (let stream = 0; stream < this.streams; stream += 1) {
        const time = this.#times[revision * this.streams + stream] ?? 0;
        if (time === 0) lost += 1;
        else values[count++] = time + this.#startMs - atMs;
      }
    }
    return { sorted: values.subarray(0, count).sort(), lost };
  }
}

const offsetMs = calibrate();

/** The wall clock, as PostgreSQL on this machine reads it, finer than the milliseconds of `Date.now`. */
export function wallClockMs(): number {
  return performance.now() + offsetMs;
}

/** The start of a millisecond of `Date.now`, by the monotonic clock. */
function calibrate(): number {
  const before = Date.now();
  let now = before;
  while (now === before) now = Date.now();
  return now - performance.now();
}
