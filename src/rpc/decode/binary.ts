import type { Message } from '@bufbuild/protobuf';
import { RPC_LIMITS } from '../limits.js';
import { setOwn, type FieldPlan, type MessagePlan } from './plan.js';
import { FIXED_64, LENGTH_DELIMITED, VARINT, type WireReader } from './wire_reader.js';

type Fields = Record<string, unknown>;

const WIRE_TYPE_OF: Readonly<Record<FieldPlan['kind'], number>> = {
  string: LENGTH_DELIMITED,
  message: LENGTH_DELIMITED,
  struct: LENGTH_DELIMITED,
  map: LENGTH_DELIMITED,
  double: FIXED_64,
  int32: VARINT,
  int64: VARINT,
  bool: VARINT,
};

/**
 * Builds a message from binary protobuf, which `measureBinary` has let through: what `fromBinary` builds. A message that
 * comes in pieces is put together, the last of what can be there once counts, and unknown fields are dropped.
 */
export function readMessage(plan: MessagePlan, reader: WireReader, into: Message = plan.blank()): Message {
  const fields = into as unknown as Fields;
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    const field = plan.byNumber[number];
    const fits = field !== undefined && reader.wireType === WIRE_TYPE_OF[field.kind];
    if (fits) readField(field, reader, fields);
    else if (field?.isList === true && reader.wireType === LENGTH_DELIMITED)
      readPacked(field, reader, fields);
    else reader.skip(number, RPC_LIMITS.messageDepth);
  }
  return into;
}

function readField(field: FieldPlan, reader: WireReader, fields: Fields): void {
  const known = fields[field.localName];
  if (field.kind === 'map') readEntry(reader, known as Fields);
  else if (field.isList) (known as unknown[]).push(readValue(field, reader, undefined));
  else fields[field.localName] = readValue(field, reader, known);
}

/** Numbers in a list have one tag together. */
function readPacked(field: FieldPlan, reader: WireReader, fields: Fields): void {
  const list = fields[field.localName] as unknown[];
  const outer = reader.enter();
  while (reader.rest > 0) list.push(readValue(field, reader, undefined));
  reader.leave(outer);
}

/** @param known what the field holds already */
function readValue(field: FieldPlan, reader: WireReader, known: unknown): unknown {
  switch (field.kind) {
    case 'string':
      return reader.string();
    case 'int32':
      return reader.int32();
    case 'int64':
      return reader.int64();
    case 'bool':
      return reader.bool();
    case 'double':
      return reader.double();
    case 'struct':
      return inside(reader, () => readStruct(reader, (known ?? {}) as Fields));
    default: {
      const plan = field.message;
      if (plan === undefined) throw new Error(`${field.name} has no message`);
      return inside(reader, () => readMessage(plan, reader, known as Message | undefined));
    }
  }
}

function inside<T>(reader: WireReader, read: () => T): T {
  const outer = reader.enter();
  const value = read();
  reader.leave(outer);
  return value;
}

function readEntry(reader: WireReader, map: Fields): void {
  let key = '';
  let value = '';
  const outer = reader.enter();
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    const isText = reader.wireType === LENGTH_DELIMITED;
    if (number === 1 && isText) key = reader.string();
    else if (number === 2 && isText) value = reader.string();
    else reader.skip(number, RPC_LIMITS.messageDepth);
  }
  reader.leave(outer);
  setOwn(map, key, value);
}

/**
 * A `google.protobuf.Struct` as the JSON object that it stands for. The library makes a message of each value first: a
 * tenth of a second for 65,536 of them, which this reads in a tenth of that.
 */
function readStruct(reader: WireReader, into: Fields): Fields {
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    if (number === 1 && reader.wireType === LENGTH_DELIMITED) readStructEntry(reader, into);
    else reader.skip(number, RPC_LIMITS.messageDepth);
  }
  return into;
}

function readStructEntry(reader: WireReader, into: Fields): void {
  let key = '';
  let value: unknown = null;
  const outer = reader.enter();
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    const fits = reader.wireType === LENGTH_DELIMITED;
    if (number === 1 && fits) key = reader.string();
    else if (number === 2 && fits) value = readJson(reader, value);
    else reader.skip(number, RPC_LIMITS.messageDepth);
  }
  reader.leave(outer);
  setOwn(into, key, value);
}

/** The one field of a `google.protobuf.Value`; one without any is taken for null, as the library does. */
function readJson(reader: WireReader, known: unknown = null): unknown {
  let value = known;
  const outer = reader.enter();
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    const { wireType } = reader;
    if (number === 1 && wireType === VARINT) {
      reader.int32();
      value = null;
    } else if (number === 2 && wireType === FIXED_64) value = reader.double();
    else if (number === 3 && wireType === LENGTH_DELIMITED) value = reader.string();
    else if (number === 4 && wireType === VARINT) value = reader.bool();
    else if (number === 5 && wireType === LENGTH_DELIMITED) value = readStructInside(reader, value);
    else if (number === 6 && wireType === LENGTH_DELIMITED) value = readList(reader, value);
    else reader.skip(number, RPC_LIMITS.messageDepth);
  }
  reader.leave(outer);
  return value;
}

/** Pieces of one object are put together, as those of any message. */
function readStructInside(reader: WireReader, known: unknown): Fields {
  const isObject = typeof known === 'object' && known !== null && !Array.isArray(known);
  const outer = reader.enter();
  const object = readStruct(reader, isObject ? (known as Fields) : {});
  reader.leave(outer);
  return object;
}

function readList(reader: WireReader, known: unknown): unknown[] {
  const list: unknown[] = Array.isArray(known) ? known : [];
  const outer = reader.enter();
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    if (number === 1 && reader.wireType === LENGTH_DELIMITED) list.push(readJson(reader));
    else reader.skip(number, RPC_LIMITS.messageDepth);
  }
  reader.leave(outer);
  return list;
}
