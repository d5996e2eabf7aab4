import { ScalarType, type DescField, type DescMessage, type MessageInitShape } from '@bufbuild/protobuf';
import { fc } from './seed.js';

/** Long enough for lengths of two and three bytes. */
const text = fc.oneof(
  fc.string({ maxLength: 70 }),
  fc.string({ unit: 'grapheme', maxLength: 200 }),
  fc.string({ minLength: 120, maxLength: 140 }),
  fc.nat({ max: 20_000 }).map((length) => 'x'.repeat(length)),
);

/** The library loses this one key of an object. */
const key = fc.string().filter((name) => name !== '__proto__');

const number = fc.oneof(fc.double(), fc.constantFrom(0, 1, -1, NaN, Infinity));

/** What a `google.protobuf.Value` can say: JSON with numbers as doubles. */
const json = fc.letrec<{ value: unknown; object: Record<string, unknown> }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    ...[text, number, fc.boolean(), fc.constant(null)],
    ...[fc.array(tie('value'), { maxLength: 4 }), tie('object')],
  ),
  object: fc.dictionary(key, tie('value'), { maxKeys: 4 }),
}));

function scalar(type: ScalarType): fc.Arbitrary<unknown> {
  switch (type) {
    case ScalarType.STRING:
      return text;
    case ScalarType.BYTES:
      return fc.uint8Array({ maxLength: 300 });
    case ScalarType.BOOL:
      return fc.boolean();
    case ScalarType.INT32:
      return fc.oneof(fc.integer(), fc.constantFrom(0, 127, 128, -1));
    case ScalarType.INT64:
      return fc.oneof(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), fc.constantFrom(0n, 2n ** 53n));
    case ScalarType.DOUBLE:
      return number;
    default:
      throw new Error(`the contract has got ${ScalarType[type]}: encode it, and make some here`);
  }
}

function value(field: DescField, depth: number): fc.Arbitrary<unknown> {
  if (field.message !== undefined) {
    return field.message.typeName === 'google.protobuf.Struct'
      ? json.object
      : anyMessage(field.message, depth + 1);
  }
  if (field.enum !== undefined) return fc.constantFrom(...field.enum.values.map((one) => one.number), 77);
  return scalar(field.scalar ?? ScalarType.INT32);
}

/** Any message: each field is set or not. */
export function anyMessage(schema: DescMessage, depth = 0): fc.Arbitrary<MessageInitShape<DescMessage>> {
  const fields: Record<string, fc.Arbitrary<unknown>> = {};
  for (const field of schema.fields) {
    if (depth > 4 && field.message !== undefined) continue;
    if (field.fieldKind === 'list') fields[field.localName] = fc.array(value(field, depth), { maxLength: 3 });
    else if (field.fieldKind === 'map') fields[field.localName] = fc.dictionary(key, text, { maxKeys: 3 });
    else if (field.oneof !== undefined) {
      const cases = field.oneof.fields.map((one) =>
        value(one, depth).map((chosen) => ({ case: one.localName, value: chosen })),
      );
      fields[field.oneof.localName] = fc.oneof(...cases);
    } else fields[field.localName] = value(field, depth);
  }
  return fc.record(fields, { requiredKeys: [] }) as fc.Arbitrary<MessageInitShape<DescMessage>>;
}
