/** The binary form of protobuf, one record at a time, so that what no encoder would write can be written too. */
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';

export { WireType };

export function varint(value: bigint): Buffer {
  return Buffer.from(new BinaryWriter().uint64(BigInt.asUintN(64, value)).finish());
}

export function tag(number: number, type: WireType): Buffer {
  return varint((BigInt(number) << 3n) | BigInt(type));
}

export function lengthDelimited(number: number, bytes: Uint8Array): Buffer {
  return Buffer.concat([tag(number, WireType.LengthDelimited), varint(BigInt(bytes.length)), bytes]);
}

export function varintField(number: number, value: bigint): Buffer {
  return Buffer.concat([tag(number, WireType.Varint), varint(value)]);
}

export function doubleField(number: number, value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleLE(value);
  return Buffer.concat([tag(number, WireType.Bit64), bytes]);
}
