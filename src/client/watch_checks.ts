import { WatchKind, type WatchRunsResponse } from '../../gen/baton/v1/job_service_pb.js';
import { EventType, type RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import { Versions } from './versions.js';
import { WatchProtocolError, type WatchRule } from './watch_errors.js';

/** What one call has asked for. */
export interface Asked {
  readonly state: boolean;
  /** Where the token stands; undefined when that is not known, or without a token. */
  readonly revision: bigint | undefined;
  /** The token stands here or before; undefined when that is not known. */
  readonly atMost: bigint | undefined;
}

/**
 * Holds every message against the promises of the stream, over all connections of one watch.
 *
 *     opening ──OPENED──▶ changes                     without a state
 *        └─────OPENED──▶ state ──STATE_END──▶ changes  with one
 */
export class WatchChecker {
  readonly #versions = new Versions();
  readonly #isDense: boolean;
  #phase: 'opening' | 'state' | 'changes' = 'opening';
  #asked: Asked = { state: false, revision: undefined, atMost: undefined };
  /** All that matches was delivered up to here; what follows is later. */
  #covered = 0n;
  /** The revision of the state, once its first message has come. */
  #snapshot: bigint | undefined;
  #token = '';

  /** @param isDense whether the filter lets every change of a run through, so that its versions have no gap */
  constructor(isDense: boolean) {
    this.#isDense = isDense;
  }

  /** A new call. A state begins from nothing. */
  begin(asked: Asked): void {
    this.#phase = 'opening';
    this.#asked = asked;
    this.#token = '';
    this.#snapshot = undefined;
    if (asked.state) this.#versions.clear();
  }

  /** @throws WatchProtocolError when the message breaks a promise */
  check(message: WatchRunsResponse): void {
    if (this.#phase === 'opening' || message.kind === WatchKind.OPENED) return this.#opened(message);
    const { revision } = message;
    if (revision < this.#covered)
      fail('order', 'a message stands before what was covered', { revision, covered: this.#covered });
    switch (message.kind) {
      case WatchKind.STATE:
        return this.#state(message);
      case WatchKind.STATE_END:
        return this.#stateEnd(message);
      case WatchKind.EVENTS:
        return this.#events(message);
      default:
        return this.#bookmark(message);
    }
  }

  /** The stream has ended well. @throws WatchProtocolError when a run that was seen is still open */
  checkEnd(): void {
    const open = this.#versions.openCount;
    if (this.#phase === 'opening') fail('opened', 'the stream ended without OPENED');
    if (open > 0) fail('end', `the stream ended while ${open} of its runs are open`, { open });
  }

  #opened({ kind, revision, resumeToken, events }: WatchRunsResponse): void {
    if (kind !== WatchKind.OPENED)
      fail('opened', `the stream begins with ${WatchKind[kind] ?? kind}`, { revision });
    if (this.#phase !== 'opening') fail('opened', 'OPENED came twice', { revision });
    const { state, revision: expected, atMost } = this.#asked;
    if (expected !== undefined && revision !== expected)
      fail('opened', 'the stream does not begin where the token stands', { revision, expected });
    if (atMost !== undefined && revision > atMost)
      fail('opened', 'the stream begins behind the place of the token', { revision, expected: atMost });
    if (events.length > 0) fail('shape', 'OPENED has events', { revision });
    if (state !== (resumeToken === ''))
      fail('token', state ? 'a token before the state is complete' : 'OPENED has no token', { revision });
    this.#phase = state ? 'state' : 'changes';
    this.#covered = revision;
    this.#token = resumeToken;
  }

  #state({ revision, resumeToken, events }: WatchRunsResponse): void {
    this.#inSnapshot(revision);
    if (resumeToken !== '') fail('token', 'a token before the state is complete', { revision });
    for (const event of events) {
      const run = runOf(event);
      const facts = { run_id: run.id, revision: event.revision };
      if (event.revision !== revision) fail('state', 'an entry of another revision', facts);
      if (this.#versions.get(run.id) !== undefined) fail('state', 'the state has a run twice', facts);
      this.#versions.set(run.id, event.version, hasEnded(run));
    }
  }

  #stateEnd({ revision, resumeToken, events }: WatchRunsResponse): void {
    this.#inSnapshot(revision);
    if (events.length > 0) fail('shape', 'STATE_END has events', { revision });
    if (resumeToken === '') fail('token', 'STATE_END has no token', { revision });
    this.#phase = 'changes';
    this.#covered = revision;
    this.#token = resumeToken;
    // Needed no longer, and never changed again.
    if (!this.#isDense) this.#versions.clear();
  }

  #inSnapshot(revision: bigint): void {
    if (this.#phase !== 'state')
      fail('state', 'a state that is complete, or was not asked for', { revision });
    const expected = (this.#snapshot ??= revision);
    if (revision !== expected) fail('state', 'the state is of two revisions', { revision, expected });
  }

  #events(message: WatchRunsResponse): void {
    this.#inChanges(message);
    let last = this.#covered;
    for (const event of message.events) {
      if (event.revision <= last)
        fail('order', 'an event repeats or goes back', { revision: event.revision, after: last });
      if (event.revision > message.revision)
        fail('order', 'an event lies behind its message', {
          revision: event.revision,
          covered: message.revision,
        });
      last = event.revision;
      this.#version(event);
    }
    this.#moveTo(message);
  }

  /** Also for kinds that are not known yet: their place and token count. */
  #bookmark(message: WatchRunsResponse): void {
    this.#inChanges(message);
    if (message.kind === WatchKind.BOOKMARK && message.events.length > 0)
      fail('shape', 'BOOKMARK has events', { revision: message.revision });
    this.#moveTo(message);
  }

  #inChanges({ kind, revision, resumeToken }: WatchRunsResponse): void {
    if (this.#phase !== 'changes')
      fail('state', `${WatchKind[kind] ?? kind} came before the state was complete`, { revision });
    if (resumeToken === '') fail('token', 'a message without a token', { revision });
    // From a token that stands still while the stream moves on, what was delivered would come again.
    if (resumeToken === this.#token && revision > this.#covered)
      fail('token', 'the token stays behind its message', { revision, covered: this.#covered });
  }

  #moveTo({ revision, resumeToken }: WatchRunsResponse): void {
    this.#covered = revision;
    this.#token = resumeToken;
  }

  #version(event: RunEvent): void {
    const run = runOf(event);
    if (!this.#isDense) return;
    const last = this.#versions.get(run.id);
    const expected = last === undefined ? undefined : last + 1n;
    const facts = { run_id: run.id, revision: event.revision, version: event.version };
    if (expected !== undefined && event.version !== expected)
      fail('density', 'a version of a run is missing or repeats', { ...facts, expected });
    if (event.type === EventType.CREATED && event.version !== 1n)
      fail('density', 'a run does not begin with version 1', { ...facts, expected: 1n });
    this.#versions.set(run.id, event.version, hasEnded(run));
  }
}

function runOf({ run, version, revision }: RunEvent): Run {
  if (run === undefined) return fail('shape', 'an event without its run', { revision });
  if (run.version !== version)
    fail('shape', 'an event and its run differ in version', { run_id: run.id, revision, version });
  return run;
}

function hasEnded({ state }: Run): boolean {
  return state === RunState.SUCCEEDED || state === RunState.FAILED || state === RunState.CANCELED;
}

function fail(rule: WatchRule, message: string, facts: Record<string, bigint | string | number> = {}): never {
  const details = Object.fromEntries(Object.entries(facts).map(([name, value]) => [name, String(value)]));
  const text = Object.entries(details)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
  throw new WatchProtocolError(rule, text === '' ? message : `${message} (${text})`, details);
}
