import { fromBinary } from '@bufbuild/protobuf';
import {
  FileDescriptorProtoSchema,
  type DescriptorProto,
  type FileDescriptorProto,
} from '@bufbuild/protobuf/wkt';

/**
 * Reads a descriptor that protobuf.js has made, and makes it what protoc would have made: the entry of a map is named
 * by its field in camel case with `Entry` (Go refuses the whole file otherwise), and types are named from the root
 * (protobuf-es finds no others).
 */
export function readDescriptor(bytes: Uint8Array): FileDescriptorProto {
  const file = fromBinary(FileDescriptorProtoSchema, bytes);
  for (const message of file.messageType) renameMapEntries(message);
  const names = new Set<string>(file.enumType.map(({ name }) => `${file.package}.${name}`));
  for (const message of file.messageType) collectNames(message, file.package, names);
  for (const message of file.messageType) resolveTypes(message, file.package, names);
  return file;
}

function renameMapEntries(message: DescriptorProto): void {
  for (const entry of message.nestedType) {
    renameMapEntries(entry);
    if (entry.options?.mapEntry !== true || entry.name.endsWith('Entry')) continue;
    const name = `${entry.name}Entry`;
    for (const field of message.field) if (field.typeName === entry.name) field.typeName = name;
    entry.name = name;
  }
}

function collectNames(message: DescriptorProto, scope: string, names: Set<string>): void {
  const own = `${scope}.${message.name}`;
  names.add(own);
  for (const { name } of message.enumType) names.add(`${own}.${name}`);
  for (const nested of message.nestedType) collectNames(nested, own, names);
}

/** A name is looked for from the innermost scope outwards. */
function resolveTypes(message: DescriptorProto, scope: string, names: ReadonlySet<string>): void {
  const own = `${scope}.${message.name}`;
  for (const field of message.field) {
    if (field.typeName === '' || field.typeName.startsWith('.')) continue;
    for (let from = own; from !== ''; from = from.slice(0, Math.max(from.lastIndexOf('.'), 0))) {
      if (!names.has(`${from}.${field.typeName}`)) continue;
      field.typeName = `.${from}.${field.typeName}`;
      break;
    }
  }
  for (const nested of message.nestedType) resolveTypes(nested, own, names);
}
