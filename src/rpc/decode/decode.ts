import { isUtf8 } from 'node:buffer';
import type { DescMessage, Message } from '@bufbuild/protobuf';
import { BatonError } from '../../base/errors.js';
import { LIMITS } from '../../base/limits.js';
import { malformedRequest, messageTooLarge } from '../errors.js';
import { readMessage } from './binary.js';
import { messageFromJson, refuseRepeatedKeys } from './json.js';
import { checkIntegers } from './json_integers.js';
import { checkTimes, type ReportJson } from './json_times.js';
import { Measure } from './measure.js';
import { measureBinary } from './measure_binary.js';
import { measureJson } from './measure_json.js';
import { planOf } from './plan.js';
import { WireReader } from './wire_reader.js';

export type Format = 'binary' | 'json';

/**
 * The message that the bytes of a request are, over whichever transport they came. They are measured first, and nothing
 * is built of what holds more than a request may.
 *
 * @throws BatonError INVALID_ARGUMENT for bytes that are no message of this kind, or one that holds too much
 */
export function decode(schema: DescMessage, bytes: Buffer, format: Format): Message {
  if (bytes.length > LIMITS.messageBytes) throw messageTooLarge();
  try {
    return format === 'json' ? decodeJson(schema, bytes) : decodeBinary(schema, bytes);
  } catch (error) {
    if (error instanceof BatonError) throw error;
    throw malformedRequest(error instanceof Error ? error.message : String(error));
  }
}

function decodeBinary(schema: DescMessage, bytes: Buffer): Message {
  const plan = planOf(schema);
  const measure = new Measure();
  measureBinary(plan, new WireReader(bytes), measure);
  measure.violations.throwIfAny();
  return readMessage(plan, new WireReader(bytes));
}

function decodeJson(schema: DescMessage, bytes: Buffer): Message {
  const measure = new Measure();
  const counted = measureJson(bytes, measure);
  if (!isUtf8(bytes)) throw malformedRequest('JSON must be UTF-8');
  const text = bytes.toString();
  const json: unknown = JSON.parse(text);
  refuseRepeatedKeys(json, counted);
  const report: ReportJson = (path, problem) => measure.violations.add(path, problem);
  checkTimes(schema, json, report);
  checkIntegers(schema, text, report);
  return messageFromJson(planOf(schema), json, measure);
}
