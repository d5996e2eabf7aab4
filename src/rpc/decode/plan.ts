import { create, ScalarType, type DescField, type DescMessage, type Message } from '@bufbuild/protobuf';
import { LIMITS } from '../../base/limits.js';

/** What decoding has to know of a field. */
export interface FieldPlan {
  readonly number: number;
  /** In the `.proto`, and so in paths. */
  readonly name: string;
  /** In JSON and in the generated types. */
  readonly localName: string;
  readonly jsonName: string;
  readonly isList: boolean;
  readonly kind: 'string' | 'int32' | 'int64' | 'bool' | 'double' | 'message' | 'struct' | 'map';
  /** Of a message, and of the items of a list of messages. */
  readonly message: MessagePlan | undefined;
  /** How many items or entries it may have, and what they are called. */
  readonly limit: number;
  readonly items: string;
}

/** What decoding has to know of a message. */
export interface MessagePlan {
  readonly desc: DescMessage;
  readonly fields: readonly FieldPlan[];
  /** By number; the numbers of the contract are small. */
  readonly byNumber: readonly (FieldPlan | undefined)[];
  /** A message in which nothing is set. */
  readonly blank: () => Message;
}

export const STRUCT = 'google.protobuf.Struct';

/** How many items the lists and maps of requests may have. One that is not here cannot be decoded. */
const LIMIT_OF_FIELD: Readonly<Record<string, readonly [limit: number, items: string]>> = {
  'baton.v1.RunFilter.run_ids': [LIMITS.filterValues, 'values'],
  'baton.v1.RunFilter.pipelines': [LIMITS.filterValues, 'values'],
  'baton.v1.RunFilter.stages': [LIMITS.filterValues, 'values'],
  'baton.v1.RunFilter.statuses': [LIMITS.filterValues, 'values'],
  'baton.v1.RunFilter.states': [LIMITS.filterValues, 'values'],
  'baton.v1.RunFilter.labels': [LIMITS.labelCount, 'labels'],
  'baton.v1.CreateRunRequest.labels': [LIMITS.labelCount, 'labels'],
  'baton.v1.Schedule.labels': [LIMITS.labelCount, 'labels'],
  'baton.v1.BatchCreateRunsRequest.requests': [LIMITS.batchItems, 'items'],
  'baton.v1.BatchUpdateStatusRequest.requests': [LIMITS.batchItems, 'items'],
  'baton.v1.ExtendLeasesRequest.leases': [LIMITS.batchItems, 'items'],
  'baton.v1.Pipeline.stages': [LIMITS.stagesPerPipeline, 'stages'],
  'baton.v1.Pipeline.schedules': [LIMITS.schedulesPerPipeline, 'schedules'],
};

const plans = new Map<DescMessage, MessagePlan>();

/** Made once for each message. @throws Error for a kind of field that no request of the contract has */
export function planOf(desc: DescMessage): MessagePlan {
  const known = plans.get(desc);
  if (known !== undefined) return known;
  const fields = desc.fields.map(planField);
  const byNumber: FieldPlan[] = [];
  for (const field of fields) byNumber[field.number] = field;
  const plan = { desc, fields, byNumber, blank: blankOf(desc, fields) };
  plans.set(desc, plan);
  return plan;
}

function blankOf(desc: DescMessage, fields: readonly FieldPlan[]): () => Message {
  const blank = create(desc);
  const lists = fields.filter(({ isList }) => isList);
  const maps = fields.filter(({ kind }) => kind === 'map');
  return () => {
    const made: Record<string, unknown> = { ...blank };
    for (const { localName } of lists) made[localName] = [];
    for (const { localName } of maps) made[localName] = {};
    return made as unknown as Message;
  };
}

function planField(field: DescField): FieldPlan {
  const [limit, items] = LIMIT_OF_FIELD[`${field.parent.typeName}.${field.name}`] ?? [0, ''];
  const isList = field.fieldKind === 'list';
  if ((isList || field.fieldKind === 'map') && limit === 0)
    throw new Error(`${field.toString()} has no limit, see LIMIT_OF_FIELD`);
  const { number, name, localName, jsonName } = field;
  const kind = kindOf(field);
  const message = kind === 'message' && field.message !== undefined ? planOf(field.message) : undefined;
  return { number, name, localName, jsonName, isList, kind, message, limit, items };
}

function kindOf(field: DescField): FieldPlan['kind'] {
  const unknown = new Error(`${field.toString()} is of a kind that cannot be decoded here`);
  if (field.oneof !== undefined || (field.fieldKind === 'list' && field.message?.typeName === STRUCT))
    throw unknown;
  if (field.fieldKind === 'map') {
    if (field.mapKey !== ScalarType.STRING || field.scalar !== ScalarType.STRING) throw unknown;
    return 'map';
  }
  if (field.message !== undefined) return field.message.typeName === STRUCT ? 'struct' : 'message';
  switch (field.scalar ?? ScalarType.INT32) {
    case ScalarType.STRING:
      return 'string';
    case ScalarType.INT32:
      return 'int32';
    case ScalarType.INT64:
      return 'int64';
    case ScalarType.BOOL:
      return 'bool';
    case ScalarType.DOUBLE:
      return 'double';
    default:
      throw unknown;
  }
}

/** Sets an entry of an object, whatever its key is called: assigned, `__proto__` would be lost. */
export function setOwn(object: Record<string, unknown>, key: string, value: unknown): void {
  if (key !== '__proto__') object[key] = value;
  else Object.defineProperty(object, key, { value, enumerable: true, configurable: true, writable: true });
}
