import { create } from '@bufbuild/protobuf';
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import {
  WatchKind as ProtoKind,
  WatchRunsResponseSchema,
  type WatchRunsResponse,
} from '../../../gen/baton/v1/job_service_pb.js';
import {
  EventType as ProtoType,
  RunEventSchema,
  type RunEvent as ProtoEvent,
} from '../../../gen/baton/v1/run_event_pb.js';
import type { EventType, RunEvent } from '../../run/run.js';
import type { WatchKind, WatchMessage } from '../../service/api.js';
import { encode } from '../encode.js';
import { runToProto } from './run.js';

const TYPE_TO_PROTO: Readonly<Record<EventType, ProtoType>> = {
  CREATED: ProtoType.CREATED,
  CLAIMED: ProtoType.CLAIMED,
  UPDATED: ProtoType.UPDATED,
  STAGE_COMPLETED: ProtoType.STAGE_COMPLETED,
  SUCCEEDED: ProtoType.SUCCEEDED,
  FAILED: ProtoType.FAILED,
  CANCELED: ProtoType.CANCELED,
  CANCEL_REQUESTED: ProtoType.CANCEL_REQUESTED,
  RELEASED: ProtoType.RELEASED,
  RETRY_SCHEDULED: ProtoType.RETRY_SCHEDULED,
  LEASE_EXPIRED: ProtoType.LEASE_EXPIRED,
  RETRIED: ProtoType.RETRIED,
};

const KIND_TO_PROTO: Readonly<Record<WatchKind, ProtoKind>> = {
  OPENED: ProtoKind.OPENED,
  STATE: ProtoKind.STATE,
  STATE_END: ProtoKind.STATE_END,
  EVENTS: ProtoKind.EVENTS,
  BOOKMARK: ProtoKind.BOOKMARK,
};

export function eventToProto(event: RunEvent, payload = true): ProtoEvent {
  return create(RunEventSchema, {
    revision: event.revision,
    version: event.run.version,
    type: TYPE_TO_PROTO[event.type],
    previousStatus: event.previousStatus,
    run: runToProto(event.run, payload),
  });
}

/** An entry of a STATE message is no change: it has neither a type nor a status before. */
function stateToProto(event: RunEvent, payload: boolean): ProtoEvent {
  return create(RunEventSchema, {
    revision: event.revision,
    version: event.run.version,
    run: runToProto(event.run, payload),
  });
}

function entryToProto(event: RunEvent, message: WatchMessage): ProtoEvent {
  return message.kind === 'STATE'
    ? stateToProto(event, message.payload)
    : eventToProto(event, message.payload);
}

function headToProto(message: WatchMessage): WatchRunsResponse {
  const { revision, resumeToken } = message;
  return create(WatchRunsResponseSchema, { kind: KIND_TO_PROTO[message.kind], revision, resumeToken });
}

/** How often bytes were made rather than found; tests hold the promise of the cache by it. */
export const encodeCounts = { messages: 0, events: 0 };

const converted = new WeakMap<WatchMessage, WatchRunsResponse>();

/** The message for a transport that encodes by itself. Shared by all streams that were given the same object. */
export function watchMessageToProto(message: WatchMessage): WatchRunsResponse {
  let proto = converted.get(message);
  if (proto === undefined) {
    proto = headToProto(message);
    proto.events = message.events.map((event) => entryToProto(event, message));
    converted.set(message, proto);
  }
  return proto;
}

/** Before each message of gRPC: whether it is compressed, and its length as four bytes. */
export const FRAME_PREFIX_BYTES = 5;

const framed = new WeakMap<WatchMessage, Buffer>();

/**
 * The message in binary protobuf, behind gRPC's prefix. Bytes are kept by the identity of the message, so that streams
 * with the same view share them, and those of each event by the identity of the event, so that streams with different
 * filters share at least these. They live as long as the objects they were made from.
 */
export function frameWatchMessage(message: WatchMessage): Buffer {
  let bytes = framed.get(message);
  if (bytes === undefined) {
    encodeCounts.messages++;
    const head = encode(WatchRunsResponseSchema, headToProto(message));
    // Protobuf lets the fields of a message stand in any order: the events may follow the rest.
    const events = message.events.map((event) => encodeEntry(event, message));
    bytes = Buffer.concat([Buffer.alloc(FRAME_PREFIX_BYTES), head, ...events]);
    bytes.writeUInt32BE(bytes.length - FRAME_PREFIX_BYTES, 1);
    framed.set(message, bytes);
  }
  return bytes;
}

/** An entry as the field `events` of WatchRunsResponse: tag, length, event. One map for each form an event has. */
const encodedEntries = {
  state: { full: new WeakMap<RunEvent, Uint8Array>(), bare: new WeakMap<RunEvent, Uint8Array>() },
  event: { full: new WeakMap<RunEvent, Uint8Array>(), bare: new WeakMap<RunEvent, Uint8Array>() },
};

function encodeEntry(event: RunEvent, message: WatchMessage): Uint8Array {
  const cache =
    encodedEntries[message.kind === 'STATE' ? 'state' : 'event'][message.payload ? 'full' : 'bare'];
  let bytes = cache.get(event);
  if (bytes === undefined) {
    encodeCounts.events++;
    const body = encode(RunEventSchema, entryToProto(event, message));
    const tag = WatchRunsResponseSchema.field.events.number;
    bytes = new BinaryWriter().tag(tag, WireType.LengthDelimited).bytes(body).finish();
    cache.set(event, bytes);
  }
  return bytes;
}
