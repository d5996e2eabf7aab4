import { LIMITS } from '../base/limits.js';
import type { RunFilter } from '../run/filter.js';
import type { RunEvent } from '../run/run.js';
import { fitRun, runBytes } from '../run/run_size.js';

export type WatchKind = 'OPENED' | 'STATE' | 'STATE_END' | 'EVENTS' | 'BOOKMARK';

/**
 * One message of a watch. Streams with the same view are given the very same object, so a transport that keeps
 * the encoded bytes by object identity encodes once for all of them. Never change one.
 */
export interface WatchMessage {
  readonly kind: WatchKind;
  readonly events: readonly RunEvent[];
  /** Every matching event up to and with this revision was sent when this message is. */
  readonly revision: bigint;
  readonly resumeToken: string;
  /** Whether the events carry input, output and checkpoint. */
  readonly payload: boolean;
}

/** Takes a message at once, and says whether there is room for another one. */
export type TakeMessage = (message: WatchMessage) => boolean;

/** A piece of the log as the tail read it: the events after `after`, up to and with `through`, in order. */
export interface LogPage {
  /** Of the log that it was read from. */
  readonly epoch: string;
  readonly after: bigint;
  readonly through: bigint;
  readonly events: readonly RunEvent[];
  readonly payload: boolean;
}

/** What a page holds for one view, cut into messages that each stay small. */
export interface PageMessages {
  readonly messages: readonly WatchMessage[];
  /** About how many bytes each message takes, and all of them together. */
  readonly sizes: readonly number[];
  readonly bytes: number;
}

/** What a stream sees. Streams with the same view share every message object. */
export interface View {
  readonly key: string;
  readonly filter: RunFilter;
  readonly payload: boolean;
}

/** By the identity of the event: every view that it matches asks again. */
const sizes = { full: new WeakMap<RunEvent, number>(), bare: new WeakMap<RunEvent, number>() };

/** About what an event takes on the wire, in bytes; used to bound what a stream holds, not to frame anything. */
export function eventBytes(event: RunEvent, payload: boolean): number {
  const cache = sizes[payload ? 'full' : 'bare'];
  let bytes = cache.get(event);
  if (bytes === undefined) {
    bytes = runBytes(event.run, payload);
    cache.set(event, bytes);
  }
  return bytes;
}

/** The event as a message can hold it: a payload that makes it too large for one, or cannot be encoded, is left out. */
export function fitEvent(event: RunEvent): RunEvent {
  const run = fitRun(event.run, LIMITS.answerBytes);
  return run === event.run ? event : { ...event, run };
}

/** Events that go into one response, and about how many bytes they take. */
export interface Chunk {
  readonly events: readonly RunEvent[];
  readonly bytes: number;
}

/** Cuts events, in order, into responses of at most `LIMITS.responseBytes`; a larger event has one for itself. */
export function splitEvents(events: readonly RunEvent[], payload: boolean): Chunk[] {
  const chunks: Chunk[] = [];
  let current: RunEvent[] = [];
  let bytes = 0;
  for (const event of events) {
    const size = eventBytes(event, payload);
    if (current.length > 0 && bytes + size > LIMITS.responseBytes) {
      chunks.push({ events: current, bytes });
      current = [];
      bytes = 0;
    }
    current.push(event);
    bytes += size;
  }
  if (current.length > 0) chunks.push({ events: current, bytes });
  return chunks;
}

/**
 * Cuts a page into pages that each fit one response, so that a stream can take a part of a large page and is not made
 * to hold all of it.
 */
export function slicePage(page: LogPage): LogPage[] {
  const chunks = splitEvents(page.events, page.payload);
  const { epoch, payload } = page;
  let { after } = page;
  return chunks.map(({ events }, index) => {
    const through = index === chunks.length - 1 ? page.through : (events.at(-1)?.revision ?? after);
    const slice = { epoch, after, through, events, payload };
    after = through;
    return slice;
  });
}
