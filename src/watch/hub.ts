import type { Clock, Timer } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { Tally } from '../base/metrics.js';
import { matchesEvent, type RunFilter } from '../run/filter.js';
import type { RunEvent } from '../run/run.js';
import type { EndReason, Feed } from './feed.js';
import { splitEvents, type LogPage, type PageMessages, type View, type WatchMessage } from './message.js';
import { encodeResumeToken } from './resume_token.js';
import { SharedPages, type ReadPage } from './shared_pages.js';
import { Subscription } from './subscription.js';

/** The streams of one view. */
interface Group extends View {
  /** Live streams only. One that catches up reads the log by itself. */
  readonly live: Set<Subscription>;
  /** Streams in any state; the group is forgotten with the last one. */
  streams: number;
}

export interface HubOptions {
  readonly clock: Clock;
  /** Reads one page of the log for a stream that catches up. */
  readonly readPage: ReadPage;
  /** Told when the first live stream needs the tail to run. */
  readonly onDemand: () => void;
  /** Told when a stream is of another log than the tail follows, which then has to look at what it has. */
  readonly onForeign: () => void;
  readonly limits: StreamLimits;
}

export interface StreamLimits {
  /** A stream is ended, with a last token, after a random time between these two; undefined for never. */
  readonly ageMs: { readonly min: number; readonly max: number } | undefined;
  /** How long a stream may leave its writer blocked before it is ended. */
  readonly stallMs: number;
}

/** How often the hub looks for streams that are too old or stand still. */
const SWEEP_MS = 1000;

/** How streams end as a rule; each is counted from the start. */
const END_REASONS = [
  'CLOSED',
  'SLOW_CONSUMER',
  'SERVER_STOPPING',
  'RESUME_TOKEN_TOO_OLD',
  'RESUME_TOKEN_FUTURE',
  'RESUME_TOKEN_FOREIGN',
] as const;

/**
 * Fans the one tail of the log out to all streams.
 *
 *   1. The tail reads a page and calls `publish`, which never waits for anything.
 *   2. For each view the matching events become messages once; each live stream of the view is offered them.
 *   3. A stream that has no room refuses the whole page. It leaves the live set at the position before that page and
 *      catches up by reading the log at its own pace, so it can slow nobody down and nothing is lost. Streams that do
 *      so at the same time share the pages.
 *   4. A stream that has caught up joins again: its position is the tail's, or within the pages remembered here.
 *
 * Joining and publishing are both synchronous, so no event can fall between them.
 */
export class Hub implements Feed<Subscription> {
  readonly #options: HubOptions;
  readonly #pages: SharedPages;
  readonly #groups = new Map<string, Group>();
  readonly #streams = new Set<Subscription>();
  /** Streams that the server has ended and whose writer has not taken the last of it. */
  readonly #draining = new Set<Subscription>();
  readonly #recent: LogPage[] = [];
  #recentEvents = 0;
  #liveCount = 0;
  #livePayloadCount = 0;
  #stopping: BatonError | undefined;
  #sweepTimer: Timer | undefined;
  /** Everything up to here was published; undefined while nobody needs the log. */
  #position: bigint | undefined;
  /** Of the log that the position is of; streams of another one never become live there. */
  #positionEpoch: string | undefined;

  constructor(options: HubOptions) {
    this.#options = options;
    this.#pages = new SharedPages(options.clock, options.readPage);
  }

  get clock(): Clock {
    return this.#options.clock;
  }

  get position(): bigint | undefined {
    return this.#position;
  }

  get positionEpoch(): string | undefined {
    return this.#positionEpoch;
  }

  get streamCount(): number {
    return this.#streams.size;
  }

  /** Streams that were ended because they stood still. */
  stalledCount = 0;

  /** Streams that are no more, by what ended them. */
  readonly endedStreams = new Tally<EndReason>(END_REASONS);

  /** Events that were handed to live streams, each counted once however many streams there were. */
  publishedEvents = 0;

  /** Bytes held for all streams, as estimated. */
  get heldBytes(): number {
    let bytes = 0;
    for (const streams of [this.#streams, this.#draining]) {
      for (const subscription of streams) bytes += subscription.heldBytes;
    }
    return bytes;
  }

  get liveCount(): number {
    return this.#liveCount;
  }

  /** What the tail has to read for the live streams. */
  get demand(): 'none' | 'events' | 'payload' {
    if (this.#livePayloadCount > 0) return 'payload';
    return this.#liveCount > 0 ? 'events' : 'none';
  }

  /** Opens a stream after `revision` of the log with this epoch. It reads, until it has caught up, by itself. */
  open(
    filter: RunFilter,
    payload: boolean,
    epoch: string,
    revision: bigint,
    bookmarkMs: number,
  ): Subscription {
    if (this.#stopping !== undefined) throw this.#stopping;
    if (this.#streams.size >= LIMITS.streams) {
      throw new BatonError('OVERLOADED', `this server has ${LIMITS.streams} open streams`, {
        retryDelayMs: 5000,
      });
    }
    const key = JSON.stringify([filter, payload]);
    let group = this.#groups.get(key);
    if (group === undefined) {
      group = { key, filter, payload, live: new Set(), streams: 0 };
      this.#groups.set(key, group);
    }
    group.streams += 1;
    const { ageMs } = this.#options.limits;
    const endAt =
      ageMs === undefined
        ? undefined
        : this.clock.now() + ageMs.min + Math.random() * (ageMs.max - ageMs.min);
    const subscription = new Subscription(this, group, { epoch, revision, bookmarkMs, endAt });
    this.#streams.add(subscription);
    this.#sweepTimer ??= this.clock.after(SWEEP_MS, () => this.#sweep());
    return subscription;
  }

  /** Ends what is too old or stands still. It runs while there are streams. */
  #sweep(): void {
    const now = this.clock.now();
    for (const subscription of [...this.#streams, ...this.#draining]) {
      if (subscription.stalledMs(now) > this.#options.limits.stallMs) {
        this.stalledCount += 1;
        subscription.breakOff(
          new BatonError('SLOW_CONSUMER', 'the stream was not read; go on from its last token', {
            retryDelayMs: 1000,
          }),
        );
      } else if (
        subscription.endAt !== undefined &&
        now >= subscription.endAt &&
        this.#streams.has(subscription)
      ) {
        subscription.end(
          new BatonError('SERVER_STOPPING', 'the planned end of a long stream; go on from its last token', {
            retryDelayMs: 0,
          }),
        );
      }
    }
    const idle = this.#streams.size + this.#draining.size === 0;
    this.#sweepTimer = idle ? undefined : this.clock.after(SWEEP_MS, () => this.#sweep());
  }

  /** Takes a stream out that the server has ended; the sweep still sees to it that its writer comes to an end. */
  retire(subscription: Subscription): void {
    this.remove(subscription);
    this.#draining.add(subscription);
  }

  /** Forgets a stream that has ended, in whatever state it was. */
  remove(subscription: Subscription): void {
    this.#draining.delete(subscription);
    if (!this.#streams.delete(subscription)) return;
    this.endedStreams.add(subscription.endReason);
    const group = this.#groupOf(subscription);
    this.#leave(subscription);
    group.streams -= 1;
    if (group.streams === 0) this.#groups.delete(group.key);
  }

  #groupOf({ view }: Subscription): Group {
    const group = this.#groups.get(view.key);
    if (group === undefined) throw new Error('a stream of no view of this hub');
    return group;
  }

  #leave(subscription: Subscription): void {
    const group = this.#groupOf(subscription);
    if (!group.live.delete(subscription)) return;
    this.#liveCount -= 1;
    if (group.payload) this.#livePayloadCount -= 1;
  }

  /**
   * Makes a stream live if it can go on from its position without the log: it stands where the tail stands or ahead
   * of it, the pages between are still remembered, or the tail is idle and the stream has read to the end.
   *
   * @returns whether the stream is live now; its queue may have been filled
   */
  join(subscription: Subscription, from: bigint, atEnd: boolean): boolean {
    if (this.#position === undefined) {
      if (!atEnd) return false;
      this.#position = from;
      this.#positionEpoch = subscription.epoch;
    } else if (this.#positionEpoch !== undefined && this.#positionEpoch !== subscription.epoch) {
      this.#options.onForeign();
      return false;
    }
    const pages = this.#pagesAfter(from, subscription.view.payload);
    if (pages === undefined) return false;
    for (const page of pages) {
      if (!subscription.offer(page, this.messages(subscription.view, page, from))) return false;
    }
    this.#groupOf(subscription).live.add(subscription);
    this.#liveCount += 1;
    if (subscription.view.payload) this.#livePayloadCount += 1;
    this.#options.onDemand();
    return true;
  }

  /** The remembered pages that cover everything after `from` without a gap, or undefined. */
  #pagesAfter(from: bigint, payload: boolean): LogPage[] | undefined {
    if (this.#position === undefined || from >= this.#position) return [];
    const first = this.#recent.findIndex((page) => page.after <= from && from < page.through);
    if (first < 0) return undefined;
    const pages = this.#recent.slice(first);
    return payload && pages.some((page) => !page.payload) ? undefined : pages;
  }

  readPage(after: bigint, payload: boolean, epoch: string): Promise<LogPage> {
    return this.#pages.read(after, payload, epoch);
  }

  /** Tells where the tail stands when it starts, or that it has stopped because nobody needs it. */
  setPosition(position: bigint | undefined, epoch = this.#positionEpoch): void {
    this.#position = position;
    this.#positionEpoch = position === undefined ? undefined : epoch;
    this.#recent.length = 0;
    this.#recentEvents = 0;
  }

  /**
   * The tail cannot go on from its position: each live stream goes on from its own by itself. A reading of the log then
   * tells those whose place is lost, and no others.
   */
  disperse(): void {
    for (const group of this.#groups.values()) {
      for (const subscription of group.live) {
        this.#leave(subscription);
        subscription.fallBack();
      }
    }
    this.setPosition(undefined);
  }

  /** Takes the next page of the tail. It starts where the last one ended. */
  publish(page: LogPage): void {
    if (page.after !== this.#position)
      throw new Error(`page after ${page.after} published at ${this.#position}`);
    for (const group of this.#groups.values()) {
      if (group.live.size === 0) continue;
      const shared = this.messages(group, page, page.after);
      for (const subscription of group.live) {
        // A stream that joined ahead of the tail has had the start of this page from the log already.
        const from = subscription.skipThrough;
        const own = from > page.after ? this.messages(group, page, from) : shared;
        if (!subscription.offer(page, own)) this.#leave(subscription);
      }
    }
    this.publishedEvents += page.events.length;
    this.#position = page.through;
    this.#remember(page);
  }

  #remember(page: LogPage): void {
    this.#recent.push(page);
    this.#recentEvents += page.events.length;
    while (this.#recent.length > LIMITS.recentPages || this.#recentEvents > LIMITS.recentEvents) {
      this.#recentEvents -= this.#recent.shift()?.events.length ?? 0;
    }
  }

  /** The messages of a view for what a page holds after `from`. The token moves with the events, never before. */
  messages(view: View, page: LogPage, from: bigint): PageMessages {
    const matching = page.events.filter((event) => event.revision > from && matchesEvent(view.filter, event));
    const chunks = splitEvents(matching, view.payload);
    const messages = chunks.map(({ events }, index) => {
      const isLast = index === chunks.length - 1;
      return this.#message(
        view,
        page.epoch,
        events,
        isLast ? page.through : (events.at(-1)?.revision ?? from),
      );
    });
    const sizes = chunks.map((chunk) => chunk.bytes);
    return { messages, sizes, bytes: sizes.reduce((sum, size) => sum + size, 0) };
  }

  #message(view: View, epoch: string, events: readonly RunEvent[], revision: bigint): WatchMessage {
    const resumeToken = encodeResumeToken({ epoch, revision });
    return { kind: 'EVENTS', events, revision, resumeToken, payload: view.payload };
  }

  /** Ends every stream with this error, after a last token. Streams that are open or opened later while stopping too. */
  stop(error: BatonError): void {
    this.#stopping = error;
    this.#sweepTimer?.cancel();
    this.endAll(error);
  }

  /** Ends the streams that are open now, but for those of the log with the epoch `except`. */
  endAll(error: BatonError, except?: string): void {
    for (const subscription of [...this.#streams]) {
      if (subscription.epoch !== except) subscription.end(error);
    }
  }
}
