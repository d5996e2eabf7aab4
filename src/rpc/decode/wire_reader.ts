import { isUtf8 } from 'node:buffer';

export const VARINT = 0;
export const FIXED_64 = 1;
export const LENGTH_DELIMITED = 2;
const START_GROUP = 3;
const END_GROUP = 4;
const FIXED_32 = 5;

/** Texts up to this length are tried as ASCII first, which most keys and values are. */
const SHORT_BYTES = 64;

/** What is wrong with bytes that are no message. */
class WireError extends Error {
  override readonly name = 'WireError';
}

/**
 * Reads protobuf's wire format, in which nothing is trusted: every length is held against the message that it is in.
 * Numbers of a varint are in two halves, since few need more than the lower one.
 */
export class WireReader {
  #at = 0;
  #end: number;
  #low = 0;
  #high = 0;
  /** Of the tag that was read last. */
  wireType = VARINT;

  constructor(private readonly bytes: Buffer) {
    this.#end = bytes.length;
  }

  /** The number of the next field, or 0 at the end of the message that was entered last. */
  next(): number {
    if (this.#at >= this.#end) return 0;
    const start = this.#at;
    this.#varint();
    const field = this.#low >>> 3;
    this.wireType = this.#low & 7;
    if (this.#high !== 0 || this.#at - start > 5 || field === 0) throw new WireError('illegal tag');
    return field;
  }

  /** Goes into what has a length before it. Gives what `leave` needs. */
  enter(): number {
    const outer = this.#end;
    const length = this.#length();
    this.#end = this.#at + length;
    return outer;
  }

  leave(outer: number): void {
    this.#at = this.#end;
    this.#end = outer;
  }

  /** How many bytes the message that was entered last still has. */
  get rest(): number {
    return this.#end - this.#at;
  }

  /** Varints up to the end of what was entered last, which is passed over. */
  countVarints(): number {
    let count = 0;
    for (; this.#at < this.#end; this.#at += 1) if ((this.bytes[this.#at] ?? 0) < 0x80) count += 1;
    return count;
  }

  int32(): number {
    this.#varint();
    return this.#low | 0;
  }

  int64(): bigint {
    this.#varint();
    return (BigInt(this.#high | 0) << 32n) | BigInt(this.#low >>> 0);
  }

  bool(): boolean {
    this.#varint();
    return this.#low !== 0 || this.#high !== 0;
  }

  double(): number {
    this.#forward(8);
    return this.bytes.readDoubleLE(this.#at - 8);
  }

  string(): string {
    const start = this.#at;
    const length = this.#length();
    const from = this.#at;
    this.#at += length;
    if (length <= SHORT_BYTES && this.#isAscii(from)) return this.bytes.toString('latin1', from, this.#at);
    if (!isUtf8(this.bytes.subarray(from, this.#at)))
      throw new WireError(`the text at byte ${start} is not valid UTF-8`);
    return this.bytes.toString('utf8', from, this.#at);
  }

  /** Passes over the value of a field, groups with all that is in them. */
  skip(field: number, depthLeft: number): void {
    switch (this.wireType) {
      case VARINT:
        return this.#varint();
      case FIXED_64:
        return this.#forward(8);
      case FIXED_32:
        return this.#forward(4);
      case LENGTH_DELIMITED:
        return this.#forward(this.#length());
      case START_GROUP:
        return this.#skipGroup(field, depthLeft - 1);
      default:
        throw new WireError(`wire type ${this.wireType} cannot stand here`);
    }
  }

  #skipGroup(group: number, depthLeft: number): void {
    if (depthLeft <= 0) throw new WireError('groups are nested too deep');
    for (let field = this.next(); field !== 0; field = this.next()) {
      if (this.wireType === END_GROUP) {
        if (field !== group) throw new WireError('a group ends that was not begun');
        return;
      }
      this.skip(field, depthLeft);
    }
    throw new WireError('a group has no end');
  }

  #isAscii(from: number): boolean {
    for (let at = from; at < this.#at; at += 1) if ((this.bytes[at] ?? 0) > 0x7f) return false;
    return true;
  }

  #length(): number {
    this.#varint();
    const length = this.#low >>> 0;
    if (this.#high !== 0 || length > this.#end - this.#at)
      throw new WireError(`what begins at byte ${this.#at} ends too early`);
    return length;
  }

  #forward(length: number): void {
    if (length > this.#end - this.#at) throw new WireError('the message ends too early');
    this.#at += length;
  }

  #varint(): void {
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#at >= this.#end) throw new WireError('the message ends too early');
      const byte = this.bytes[this.#at++] ?? 0;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else high |= bits << (shift - 32);
      if (byte < 0x80) {
        this.#low = low;
        this.#high = high;
        return;
      }
    }
    throw new WireError('a number is longer than ten bytes');
  }
}
