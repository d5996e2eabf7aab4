import { toJson } from '@bufbuild/protobuf';
import { RunEventSchema, type RunEvent as ProtoEvent } from '../../gen/baton/v1/run_event_pb.js';
import type { Status } from '../../gen/google/rpc/status_pb.js';
import type { RunEvent } from '../run/run.js';
import type { WatchMessage } from '../service/api.js';
import { decodeResumeToken, encodeResumeToken } from '../watch/resume_token.js';
import { errorJson } from './connect_errors.js';
import { eventToProto, watchMessageToProto } from './convert/watch.js';

/**
 * One line of the stream, or one server-sent event. A message with several events becomes as many lines: each with a
 * token of its own, after which the stream goes on with exactly the next line.
 */
interface Line {
  readonly kind: 'OPENED' | 'STATE' | 'STATE_END' | 'EVENT' | 'BOOKMARK' | 'END' | 'ERROR';
  readonly revision: bigint;
  readonly resumeToken: string;
  /** A further member of the JSON object, already in JSON. */
  readonly extra?: readonly [name: 'event' | 'error', json: string];
}

/** The two forms that the stream has on the wire. */
export interface Format {
  readonly contentType: string;
  /** What comes before everything else. */
  readonly head: () => string;
  readonly line: (line: Line) => string;
  /** Bytes by the identity of the message, so that streams with the same view share them. */
  readonly encoded: WeakMap<WatchMessage, Buffer>;
}

/** Where a stream stands after a message. */
export interface StreamPosition {
  readonly revision: bigint;
  readonly resumeToken: string;
}

/** The id after the good end of a stream, with which a browser asks again although nothing follows. */
export const END_ID = 'end';

export const NDJSON: Format = {
  contentType: 'application/x-ndjson; charset=utf-8',
  head: () => '',
  line: (line) => `${lineJson(line)}\n`,
  encoded: new WeakMap(),
};

/** A change has no `event:` name, so that a page gets the changes, and nothing else, by `onmessage`. */
export const EVENT_STREAM: Format = {
  contentType: 'text/event-stream; charset=utf-8',
  head: () => `retry: ${retryMs()}\n\n`,
  line: (line) => {
    const id = line.kind === 'END' ? END_ID : line.resumeToken;
    const name = line.kind === 'EVENT' ? '' : `event: ${line.kind.toLowerCase()}\n`;
    return `${name}${id === '' ? '' : `id: ${id}\n`}data: ${lineJson(line)}\n\n`;
  },
  encoded: new WeakMap(),
};

/** Browsers wait as long as they are told: a random time, so that all that one server had do not come at once. */
function retryMs(): number {
  return 500 + Math.floor(Math.random() * 1500);
}

/** JSON has no line break outside of its strings, and none in them that is not escaped. */
function lineJson({ kind, revision, resumeToken, extra }: Line): string {
  const json = `{"kind":"${kind}","revision":"${revision}","resumeToken":${JSON.stringify(resumeToken)}`;
  return extra === undefined ? `${json}}` : `${json},"${extra[0]}":${extra[1]}}`;
}

/** How often bytes were made rather than found. */
export const formatCounts = { messages: 0, events: 0 };

/** The bytes of a message in this format. They live as long as the message. */
export function encodeLines(format: Format, message: WatchMessage): Buffer {
  let bytes = format.encoded.get(message);
  if (bytes === undefined) {
    formatCounts.messages++;
    bytes = Buffer.from(linesOf(message).map(format.line).join(''));
    format.encoded.set(message, bytes);
  }
  return bytes;
}

/** The last line of a stream that ended well. */
export function encodeEnd(format: Format, { revision, resumeToken }: StreamPosition): Buffer {
  return Buffer.from(format.line({ kind: 'END', revision, resumeToken }));
}

/** The last line of a stream that failed: the error as Connect writes it, and the token to go on from. */
export function encodeError(format: Format, status: Status, position: StreamPosition): Buffer {
  const json = Buffer.from(errorJson(status)).toString();
  return Buffer.from(format.line({ kind: 'ERROR', ...position, extra: ['error', json] }));
}

function linesOf(message: WatchMessage): Line[] {
  const { kind, events, revision, resumeToken } = message;
  if (kind === 'STATE') {
    return watchMessageToProto(message).events.map((event) => ({
      kind,
      revision,
      resumeToken,
      extra: ['event', eventJson(event)],
    }));
  }
  if (kind !== 'EVENTS') return [{ kind, revision, resumeToken }];
  return events.map((event, index) => ({
    kind: 'EVENT',
    ...(index === events.length - 1 ? { revision, resumeToken } : positionOf(event, resumeToken)),
    extra: ['event', sharedEventJson(event, message.payload)],
  }));
}

/** After one event inside of a message: the same log, at the event's own revision. */
function positionOf({ revision }: RunEvent, messageToken: string): StreamPosition {
  const { epoch } = decodeResumeToken(messageToken);
  return { revision, resumeToken: encodeResumeToken({ epoch, revision }) };
}

const sharedJson = { full: new WeakMap<RunEvent, string>(), bare: new WeakMap<RunEvent, string>() };

/** By the identity of the event, so that streams with different filters, and both formats, share at least this. */
function sharedEventJson(event: RunEvent, payload: boolean): string {
  const cache = sharedJson[payload ? 'full' : 'bare'];
  let json = cache.get(event);
  if (json === undefined) {
    formatCounts.events++;
    json = eventJson(eventToProto(event, payload));
    cache.set(event, json);
  }
  return json;
}

/** As the Connect streams write it: fields with their default value are there. */
function eventJson(event: ProtoEvent): string {
  return JSON.stringify(toJson(RunEventSchema, event, { alwaysEmitImplicit: true }));
}
