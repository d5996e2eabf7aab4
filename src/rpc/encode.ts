import { ScalarType, type DescField, type DescMessage, type Message } from '@bufbuild/protobuf';
import { FeatureSet_FieldPresence as FieldPresence } from '@bufbuild/protobuf/wkt';
import { BinaryBuffer } from './binary_buffer.js';

type Fields = Readonly<Record<string, unknown>>;
type ValueWriter = (to: BinaryBuffer, value: unknown) => void;
/** Writes one field of a message, or nothing where it is not set. */
type FieldWriter = (to: BinaryBuffer, message: Fields) => void;

/** Wire types. */
const VARINT = 0;
const FIXED_64 = 1;
const LENGTH_DELIMITED = 2;
const STRUCT = 'google.protobuf.Struct';

const scratch = new BinaryBuffer();
const writersOf = new Map<DescMessage, readonly FieldWriter[]>();

/**
 * A message in binary protobuf: the bytes that `toBinary` gives. The library looks every field up in the descriptor for
 * each message anew; here the writers of a message are put together once. A run takes 14 µs that way and 2 µs this way,
 * and nearly every answer holds one. Of protobuf it knows what the contract uses.
 *
 * @throws Error for a message with a kind of field that the contract has nowhere
 */
export function encode(schema: DescMessage, message: Message): Buffer {
  const writers = writersFor(schema);
  scratch.reset();
  writeFields(scratch, writers, message);
  return scratch.take();
}

function writeFields(to: BinaryBuffer, writers: readonly FieldWriter[], message: Fields): void {
  for (const write of writers) write(to, message);
}

function writersFor(schema: DescMessage): readonly FieldWriter[] {
  const known = writersOf.get(schema);
  if (known !== undefined) return known;
  const writers: FieldWriter[] = [];
  // Known before it is complete, because a message may hold itself.
  writersOf.set(schema, writers);
  try {
    const fields = [...schema.fields].sort((a, b) => a.number - b.number);
    writers.push(...fields.map(fieldWriter));
  } catch (error) {
    // Else the next message of this kind would be empty, without a word.
    writersOf.delete(schema);
    throw error;
  }
  return writers;
}

function fieldWriter(field: DescField): FieldWriter {
  const name = field.localName;
  if (field.fieldKind === 'map') {
    const write = mapEntryWriter(field);
    return (to, message) => {
      const map = message[name] as Fields;
      for (const key of Object.keys(map)) write(to, [key, map[key]]);
    };
  }
  const write = valueWriter(field);
  if (field.fieldKind === 'list') {
    const writeAll = field.packed ? packed(field.number, write) : each(write);
    return (to, message) => writeAll(to, message[name]);
  }
  if (field.oneof !== undefined) {
    const group = field.oneof.localName;
    return (to, message) => {
      const chosen = message[group] as { readonly case?: string; readonly value?: unknown };
      if (chosen.case === name) write(to, chosen.value);
    };
  }
  if (field.scalar === ScalarType.BYTES && field.presence === FieldPresence.IMPLICIT) {
    return (to, message) => {
      const value = message[name] as Uint8Array | undefined;
      if (value !== undefined && value.length > 0) write(to, value);
    };
  }
  if (field.presence === FieldPresence.IMPLICIT) {
    return (to, message) => {
      const value = message[name];
      // Every default is falsy, and nothing else is but NaN and -0.
      if (Boolean(value) || (typeof value === 'number' && !Object.is(value, 0))) write(to, value);
    };
  }
  return (to, message) => {
    const value = message[name];
    if (value !== undefined) write(to, value);
  };
}

function each(write: ValueWriter): ValueWriter {
  return (to, list) => {
    for (const value of list as readonly unknown[]) write(to, value);
  };
}

function packed(number: number, write: ValueWriter): ValueWriter {
  const writeAll = delimited(number, each(write));
  return (to, list) => {
    if ((list as readonly unknown[]).length > 0) writeAll(to, list);
  };
}

/** Tag, length and what `write` writes. */
function delimited(number: number, write: ValueWriter): ValueWriter {
  const tag = tagOf(number, LENGTH_DELIMITED);
  return (to, value) => {
    to.varint(tag);
    const start = to.open();
    write(to, value);
    to.close(start);
  };
}

function tagOf(number: number, wireType: number): number {
  return (number << 3) | wireType;
}

/** The value with its tag, but for the items of a packed list, which have none. */
function valueWriter(field: DescField): ValueWriter {
  const { number, message } = field;
  if (message !== undefined) {
    // In the generated types a Struct is the JSON object itself.
    if (message.typeName === STRUCT) return delimited(number, writeStruct);
    const writers = writersFor(message);
    return delimited(number, (to, value) => writeFields(to, writers, value as Fields));
  }
  const type = field.scalar ?? ScalarType.INT32;
  return field.fieldKind === 'list' && field.packed ? scalarWriter(field, type) : tagged(field, number, type);
}

function tagged(field: DescField, number: number, type: ScalarType): ValueWriter {
  const write = scalarWriter(field, type);
  const tag = tagOf(number, wireTypeOf(type));
  return (to, value) => {
    to.varint(tag);
    write(to, value);
  };
}

function wireTypeOf(type: ScalarType): number {
  if (type === ScalarType.DOUBLE) return FIXED_64;
  return type === ScalarType.STRING || type === ScalarType.BYTES ? LENGTH_DELIMITED : VARINT;
}

function scalarWriter(field: DescField, type: ScalarType): ValueWriter {
  switch (type) {
    case ScalarType.STRING:
      return (to, value) => to.string(value as string);
    case ScalarType.BYTES:
      return (to, value) => to.bytes(value as Uint8Array);
    case ScalarType.DOUBLE:
      return (to, value) => to.double(value as number);
    case ScalarType.BOOL:
      return (to, value) => to.varint(value === true ? 1 : 0);
    case ScalarType.INT32:
      return (to, value) => to.signed(value as number);
    case ScalarType.INT64:
      return (to, value) => to.signed(value as bigint);
    default:
      throw new Error(`${field.toString()} has a type that cannot be encoded here`);
  }
}

function mapEntryWriter(field: DescField & { fieldKind: 'map' }): ValueWriter {
  if (field.mapKey !== ScalarType.STRING || field.scalar === undefined)
    throw new Error(`${field.toString()} is a map that cannot be encoded here`);
  const putKey = tagged(field, 1, ScalarType.STRING);
  const putValue = tagged(field, 2, field.scalar);
  return delimited(field.number, (to, entry) => {
    const [key, value] = entry as readonly [string, unknown];
    putKey(to, key);
    putValue(to, value);
  });
}

/** `Struct.fields` is 1, and an entry of it holds the key as 1 and a Value as 2. */
const writeStruct: ValueWriter = (to, value) => {
  const object = value as Fields;
  for (const key of Object.keys(object)) writeStructField(to, [key, object[key]]);
};
const writeStructValue = delimited(2, writeValue);
const writeStructField = delimited(1, (to, entry) => {
  const [key, value] = entry as readonly [string, unknown];
  to.varint(tagOf(1, LENGTH_DELIMITED));
  to.string(key);
  writeStructValue(to, value);
});
const writeStructInside = delimited(5, writeStruct);
const writeList = delimited(6, each(delimited(1, writeValue)));

/** The one field of a `google.protobuf.Value`. */
function writeValue(to: BinaryBuffer, value: unknown): void {
  if (typeof value === 'string') {
    to.varint(tagOf(3, LENGTH_DELIMITED));
    to.string(value);
  } else if (typeof value === 'number') {
    to.varint(tagOf(2, FIXED_64));
    to.double(value);
  } else if (typeof value === 'boolean') {
    to.varint(tagOf(4, VARINT));
    to.varint(value ? 1 : 0);
  } else if (value === null) {
    to.varint(tagOf(1, VARINT));
    to.varint(0);
  } else if (Array.isArray(value)) writeList(to, value);
  else writeStructInside(to, value);
}
