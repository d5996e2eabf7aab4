import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import {
  WatchKind,
  WatchRunsRequestSchema,
  type WatchRunsRequest,
  type WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import type { RunFilterSchema } from '../../gen/baton/v1/filter_pb.js';
import { batchToken, parseBatchToken } from './batch_token.js';
import { WatchChecker } from './watch_checks.js';
import type { WatchTokenError } from './watch_errors.js';
import type { WatchEvent, WatchItem, WatchReset, WatchRunsOptions } from './watch_types.js';

/** What one watch has reached over all its connections: what to ask for next, and what a message has for its reader. */
export class WatchSession {
  readonly #options: WatchRunsOptions;
  readonly #checker: WatchChecker;
  #wantsState: boolean;
  /** The last token of a message that was given to the reader as a whole, '' for none, or what the reader gave. */
  #token: string;
  /** Where the token stands; undefined for a token of the reader's. */
  #revision: bigint | undefined;
  /** The reader has handled the events up to here before. */
  #handled: bigint | undefined;
  #hasOpened = false;
  #stateGiven = false;
  #reset: WatchReset | undefined;

  constructor(options: WatchRunsOptions) {
    this.#options = options;
    const { after = '' } = options;
    const inBatch = parseBatchToken(after);
    this.#token = inBatch?.token ?? after;
    this.#handled = inBatch?.revision;
    this.#wantsState = options.includeState ?? false;
    this.#checker = new WatchChecker(letsEveryChangeThrough(options.filter));
    // Over a transport that speaks JSON it would be lost, and the watch be of more than was asked for.
    if (Object.hasOwn(options.filter?.labels ?? {}, '__proto__'))
      throw new TypeError('filter.labels has the key __proto__, which no run can bear');
  }

  /** Begins another call and gives its request. */
  begin(): WatchRunsRequest {
    const { filter, includePayload = false, untilTerminal = false, bookmarkIntervalMs } = this.#options;
    if (this.#wantsState && this.#stateGiven) this.#interrupt('interrupted', undefined);
    const state = this.#wantsState;
    this.#checker.begin({
      state,
      revision: this.#revision,
      atMost: this.#revision === undefined ? this.#handled : undefined,
    });
    return create(WatchRunsRequestSchema, {
      ...(filter !== undefined && { filter }),
      after: this.#token,
      includeState: state,
      includePayload,
      untilTerminal,
      ...(bookmarkIntervalMs !== undefined && { bookmarkInterval: durationFromMs(bookmarkIntervalMs) }),
    });
  }

  /** The token is worth nothing any more: the next call starts with the state. */
  restartWithState(error: WatchTokenError): void {
    this.#wantsState = true;
    this.#token = '';
    this.#revision = undefined;
    this.#handled = undefined;
    this.#interrupt('token_lost', error);
  }

  #interrupt(reason: WatchReset['reason'], error: WatchTokenError | undefined): void {
    this.#stateGiven = false;
    // A loss that the reader has not been told of yet says more.
    this.#reset ??= { kind: 'reset', reason, error };
  }

  /**
   * Checks a message and gives what it holds for the reader, lazily: the session stands after the message once all of
   * it was taken.
   *
   * @throws WatchProtocolError when the message breaks a promise of the stream
   */
  *accept(message: WatchRunsResponse): Generator<WatchItem, void, undefined> {
    this.#checker.check(message);
    const { kind, revision, events } = message;
    if (this.#reset !== undefined) {
      yield this.#reset;
      this.#reset = undefined;
    }
    if (kind === WatchKind.STATE) {
      this.#stateGiven = true;
      for (const { run } of events) if (run !== undefined) yield { kind: 'state', run, revision };
      return;
    }
    if (kind === WatchKind.EVENTS) yield* this.#events(message);
    if (message.resumeToken === '') return;
    const isFirst = !this.#hasOpened;
    this.#hasOpened = true;
    this.#token = message.resumeToken;
    this.#revision = revision;
    const resumeToken = this.#readerToken();
    if (kind === WatchKind.OPENED && isFirst) yield { kind: 'opened', revision, resumeToken };
    if (kind === WatchKind.BOOKMARK) yield { kind: 'bookmark', revision, resumeToken };
    if (kind === WatchKind.STATE_END) {
      this.#wantsState = false;
      yield { kind: 'synced', revision, resumeToken };
    }
  }

  *#events({ events, resumeToken }: WatchRunsResponse): Generator<WatchEvent, void, undefined> {
    const handled = this.#handled ?? -1n;
    const base = this.#token;
    for (const [index, event] of events.entries()) {
      const { run } = event;
      if (run === undefined || event.revision <= handled) continue;
      const isLast = index === events.length - 1;
      yield {
        kind: 'event',
        event,
        run,
        revision: event.revision,
        resumeToken: isLast ? resumeToken : batchToken(base, event.revision),
      };
    }
  }

  /** As long as the stream is behind what the reader has handled, a token alone would bring that again. */
  #readerToken(): string {
    if (this.#handled === undefined || this.#revision === undefined) return this.#token;
    return this.#handled > this.#revision ? batchToken(this.#token, this.#handled) : this.#token;
  }

  /** The stream has ended well. @throws WatchProtocolError when it should not have */
  checkEnd(): void {
    if (this.#options.untilTerminal === true) this.#checker.checkEnd();
  }
}

/** Without a condition on where a run is, a filter that lets one change of it through lets all through. */
function letsEveryChangeThrough(filter: MessageInitShape<typeof RunFilterSchema> | undefined): boolean {
  const { stages = [], statuses = [], states = [] } = filter ?? {};
  return stages.length + statuses.length + states.length === 0;
}
