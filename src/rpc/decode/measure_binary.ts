import type { FieldPlan, MessagePlan } from './plan.js';
import type { Measure } from './measure.js';
import { RPC_LIMITS } from '../limits.js';
import { LENGTH_DELIMITED, type WireReader } from './wire_reader.js';

type CountIn = (reader: WireReader, measure: Measure, depth: number) => number;

/** Measures a message in binary protobuf: one pass over its bytes, which keeps nothing of them. */
export function measureBinary(plan: MessagePlan, reader: WireReader, measure: Measure, depth = 1): void {
  measure.judgeDepth(depth);
  let counts: number[] | undefined;
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    const field = plan.byNumber[number];
    measure.add(1, field?.name);
    if (
      field === undefined ||
      (field.limit === 0 && field.message === undefined && field.kind !== 'struct')
    ) {
      reader.skip(number, RPC_LIMITS.messageDepth - depth);
      continue;
    }
    if (reader.wireType !== LENGTH_DELIMITED) {
      // An item of a list of numbers, or a type that the field does not have and that is passed over.
      reader.skip(number, RPC_LIMITS.messageDepth - depth);
      if (field.limit > 0) (counts ??= [])[number] = (counts[number] ?? 0) + 1;
      continue;
    }
    const before = counts?.[number] ?? 0;
    const more = measureField(field, before, reader, measure, depth);
    if (field.limit > 0) (counts ??= [])[number] = before + more;
  }
  counts?.forEach((count, number) => {
    const field = plan.byNumber[number];
    if (field !== undefined) measure.judgeItems(field, count);
  });
}

/** @returns how many items it has; a packed list has many in one field */
function measureField(
  field: FieldPlan,
  index: number,
  reader: WireReader,
  measure: Measure,
  depth: number,
): number {
  const outer = reader.enter();
  measure.trail.push(field.name);
  let items = 1;
  if (field.kind === 'struct') measure.judgeStruct(countStruct(reader, measure, depth + 1));
  else if (field.message !== undefined) {
    if (field.isList) measure.trail.push(index);
    measureBinary(field.message, reader, measure, depth + 1);
    if (field.isList) measure.trail.pop();
  } else if (field.kind === 'map') countEntry(reader, measure, depth + 1, skipText);
  else if (field.kind !== 'string') {
    items = reader.countVarints();
    measure.add(items);
  }
  measure.trail.pop();
  reader.leave(outer);
  return items;
}

/** The values in a `google.protobuf.Struct`. */
function countStruct(reader: WireReader, measure: Measure, depth: number): number {
  return countItems(reader, measure, depth, countEntry);
}

function countList(reader: WireReader, measure: Measure, depth: number): number {
  return countItems(reader, measure, depth, countValue);
}

/** An entry of a map or a Struct: the key as 1 and the value as 2. */
function countEntry(reader: WireReader, measure: Measure, depth: number, countIn = countValue): number {
  let count = 0;
  let tags = 0;
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    tags += 1;
    if (tags > 2) measure.add(1);
    if (number === 2 && reader.wireType === LENGTH_DELIMITED)
      count += countInside(reader, measure, depth, countIn);
    else reader.skip(number, RPC_LIMITS.messageDepth - depth);
  }
  return count;
}

const skipText: CountIn = () => 0;

/** The items of a Struct or a ListValue: each is one value, and those that it has inside. */
function countItems(reader: WireReader, measure: Measure, depth: number, countItem: CountIn): number {
  measure.judgeDepth(depth);
  let count = 0;
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    measure.add(1);
    if (number !== 1 || reader.wireType !== LENGTH_DELIMITED) {
      reader.skip(number, RPC_LIMITS.messageDepth - depth);
      continue;
    }
    const outer = reader.enter();
    count += 1 + countItem(reader, measure, depth + 1);
    reader.leave(outer);
  }
  return count;
}

/** What a `google.protobuf.Value` has inside: a Struct as 5, a ListValue as 6. Only one of its fields counts. */
function countValue(reader: WireReader, measure: Measure, depth: number): number {
  measure.judgeDepth(depth);
  let count = 0;
  let isFirst = true;
  for (let number = reader.next(); number !== 0; number = reader.next()) {
    if (!isFirst) measure.add(1);
    isFirst = false;
    if (reader.wireType !== LENGTH_DELIMITED) reader.skip(number, RPC_LIMITS.messageDepth - depth);
    else if (number === 5) count += countInside(reader, measure, depth, countStruct);
    else if (number === 6) count += countInside(reader, measure, depth, countList);
    else reader.skip(number, RPC_LIMITS.messageDepth - depth);
  }
  return count;
}

function countInside(reader: WireReader, measure: Measure, depth: number, count: CountIn): number {
  const outer = reader.enter();
  const found = count(reader, measure, depth + 1);
  reader.leave(outer);
  return found;
}
