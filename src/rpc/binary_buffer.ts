const INITIAL_BYTES = 4096;
/** A buffer that one large answer has made larger than this is not kept for the next ones. */
const KEPT_BYTES = 1024 * 1024;
/** Texts up to this length are tried as ASCII first, which ids, names and statuses are. */
const SHORT_CHARS = 64;
const VARINT_BYTES = 10;

/** Bytes of protobuf's wire format, put one after the other into one buffer that grows and is used again. */
export class BinaryBuffer {
  #bytes = Buffer.allocUnsafe(INITIAL_BYTES);
  #length = 0;

  reset(): void {
    this.#length = 0;
    if (this.#bytes.length > KEPT_BYTES) this.#bytes = Buffer.allocUnsafe(INITIAL_BYTES);
  }

  /** A copy of what was written. */
  take(): Buffer {
    return Buffer.from(this.#bytes.subarray(0, this.#length));
  }

  #reserve(bytes: number): void {
    const wanted = this.#length + bytes;
    if (wanted <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafe(Math.max(wanted, 2 * this.#bytes.length));
    this.#bytes.copy(larger, 0, 0, this.#length);
    this.#bytes = larger;
  }

  /** @param value whole and not negative, below 2^53 */
  varint(value: number): void {
    this.#reserve(VARINT_BYTES);
    this.#length = putVarint(this.#bytes, this.#length, value);
  }

  /** An int32 or int64. A negative one takes ten bytes, as protobuf has it. */
  signed(value: number | bigint): void {
    if (value >= 0 && value <= Number.MAX_SAFE_INTEGER) return this.varint(Number(value));
    this.#reserve(VARINT_BYTES);
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 0x7fn; rest >>= 7n) this.#bytes[this.#length++] = Number(rest & 0x7fn) | 0x80;
    this.#bytes[this.#length++] = Number(rest);
  }

  double(value: number): void {
    this.#reserve(8);
    this.#length = this.#bytes.writeDoubleLE(value, this.#length);
  }

  bytes(value: Uint8Array): void {
    this.varint(value.length);
    this.#reserve(value.length);
    this.#bytes.set(value, this.#length);
    this.#length += value.length;
  }

  string(value: string): void {
    if (value.length <= SHORT_CHARS && this.#shortAscii(value)) return;
    const bytes = Buffer.byteLength(value);
    this.varint(bytes);
    this.#reserve(bytes);
    this.#length += this.#bytes.write(value, this.#length, bytes);
  }

  /** @returns false, with nothing written, where the text is more than ASCII */
  #shortAscii(value: string): boolean {
    this.#reserve(1 + SHORT_CHARS);
    const bytes = this.#bytes;
    const start = this.#length + 1;
    for (let index = 0; index < value.length; index += 1) {
      const code = value.charCodeAt(index);
      if (code > 0x7f) return false;
      bytes[start + index] = code;
    }
    bytes[this.#length] = value.length;
    this.#length = start + value.length;
    return true;
  }

  /** Leaves room for a length of one byte, which most are. Returns what `close` needs. */
  open(): number {
    this.#reserve(1);
    this.#length += 1;
    return this.#length;
  }

  /** Puts the length of what was written since `open` before it. */
  close(start: number): void {
    const length = this.#length - start;
    if (length > 0x7f) {
      const more = varintBytes(length) - 1;
      this.#reserve(more);
      this.#bytes.copyWithin(start + more, start, this.#length);
      this.#length += more;
    }
    putVarint(this.#bytes, start - 1, length);
  }
}

/** @returns where the next byte goes */
function putVarint(bytes: Buffer, at: number, value: number): number {
  let rest = value;
  for (; rest > 0x7f; rest = Math.floor(rest / 128)) bytes[at++] = (rest % 128) | 0x80;
  bytes[at++] = rest;
  return at;
}

function varintBytes(value: number): number {
  let bytes = 1;
  for (let rest = value; rest > 0x7f; rest = Math.floor(rest / 128)) bytes += 1;
  return bytes;
}
