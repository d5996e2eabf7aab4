import { Alarm } from '../base/alarm.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { EndReason, Feed, SubscriptionStart } from './feed.js';
import { Handover } from './handover.js';
import type { LogPage, PageMessages, TakeMessage, View, WatchKind, WatchMessage } from './message.js';
import { MessageQueue } from './message_queue.js';
import { PageReader } from './page_reader.js';
import { encodeResumeToken } from './resume_token.js';

/**
 * One open stream, pulled by its writer through `next`.
 *
 *     catching up ──joins the hub──▶ live
 *          ▲                          │
 *          └──── no room for a page ──┘      from both: ──▶ ended
 *
 * Catching up: it reads the log by its own cursor, one page for each pull, so a slow reader reads slowly.
 * Live: the hub puts messages into the queue; the queue is bounded in bytes and never waited for. A writer that waits may
 * be handed them at once: of ten thousand that were each woken by a promise, the last had an event after 0.6 s.
 */
export class Subscription {
  readonly view: View;
  readonly #hub: Feed<Subscription>;
  /** Of the log that the stream is of. */
  readonly epoch: string;
  readonly #bookmarkMs: number;
  #state: 'catching up' | 'live' | 'ended' = 'catching up';
  readonly #queue = new MessageQueue();
  /** Catching up: everything up to here was put into the queue or is none of this stream's business. */
  #cursor: bigint;
  /** The last read of the log came to its end. */
  #atEnd = false;
  readonly #reader: PageReader;
  #opened = false;
  /** Whether the writer waits for a message; if not, it is busy with the last one. */
  #pulled = false;
  #lastSentAt: number;
  /** When the last bookmark was sent, or the stream was opened: changes are no substitute for one. */
  #markedAt: number;
  /** Where the last message has brought the stream; undefined when that was a bookmark. */
  #sentThrough: bigint | undefined;
  #error: BatonError | undefined;
  #markAt: bigint | undefined;
  readonly #alarm: Alarm;
  /** To a writer that waits; undefined until there was one, over when the writer pulls. */
  #handover: Handover | undefined;
  /** Why the stream has ended, once it has; until then what it would be. */
  endReason: EndReason = 'CLOSED';
  /** Bytes that are held for this stream before anything that is here, the message that was given last included. */
  stateBytes = 0;
  readonly #onEnd: (() => void)[] = [];

  /** Called when the server ends the stream although its writer may be blocked and never pull again. */
  onBreak: ((error: BatonError) => void) | undefined;
  /** When the stream is to end as planned, by the hub's clock. */
  readonly endAt: number | undefined;

  constructor(hub: Feed<Subscription>, view: View, start: SubscriptionStart) {
    this.#hub = hub;
    this.view = view;
    this.epoch = start.epoch;
    this.#cursor = start.revision;
    this.#bookmarkMs = start.bookmarkMs;
    this.endAt = start.endAt;
    this.#lastSentAt = hub.clock.now();
    this.#markedAt = this.#lastSentAt;
    this.#alarm = new Alarm(hub.clock);
    this.#reader = new PageReader({
      clock: hub.clock,
      read: (after) => hub.readPage(after, view.payload, start.epoch),
      isWanted: () => this.#pulled,
      onSettled: () => this.#alarm.wake(),
    });
  }

  get state(): 'catching up' | 'live' | 'ended' {
    return this.#state;
  }

  /** Bytes held for this stream, as estimated. */
  get heldBytes(): number {
    return this.stateBytes + this.#queue.bytes;
  }

  /** Calls back once when the stream ends, from either side. */
  whenEnded(callback: () => void): void {
    this.#onEnd.push(callback);
  }

  /** Why the server has ended the stream; undefined while it is open and when its reader closed it. */
  get failure(): BatonError | undefined {
    return this.#error;
  }

  /** Starts at a later revision than it was opened at, before anything but OPENED was taken. */
  moveTo(revision: bigint): void {
    if (revision > this.#cursor) this.#cursor = revision;
  }

  /** Asks for a bookmark as soon as the stream has covered this revision, whatever the interval. */
  markAt(revision: bigint): void {
    this.#markAt = revision;
  }

  /** Events up to here reached the stream from the log before it became live. */
  get skipThrough(): bigint {
    return this.#cursor;
  }

  /**
   * Takes the messages of one page, or none of them.
   *
   * @returns false when there is no room: the stream then stands before this page and catches up by itself
   */
  offer(page: LogPage, batch: PageMessages): boolean {
    // A single event that is larger than the bound by itself still fits an empty queue, else it could never be sent.
    if (this.#queue.length > 0 && this.heldBytes + batch.bytes > LIMITS.streamBytes) {
      if (page.after > this.#cursor) this.#cursor = page.after;
      this.#state = 'catching up';
      this.#atEnd = false;
      return false;
    }
    for (const [index, message] of batch.messages.entries()) {
      this.#queue.add(message, batch.sizes[index] ?? 0);
    }
    if (this.#state !== 'live' && page.through > this.#cursor) this.#cursor = page.through;
    if (batch.messages.length > 0) {
      if (this.#handover?.isOver === false) this.#giveQueued(this.#handover);
      else this.#alarm.wake();
    }
    return true;
  }

  /** Goes on by the log, from behind what is queued; it has left the live set. */
  fallBack(): void {
    this.#cursor = this.#covered();
    this.#state = 'catching up';
    this.#atEnd = false;
    this.#alarm.wake();
  }

  /**
   * The next message, as soon as there is one; undefined when the stream was closed from this side.
   *
   * @throws BatonError that ended the stream, after what was queued and a last token were delivered
   */
  async next(): Promise<WatchMessage | undefined> {
    this.asked();
    if (!this.#opened) {
      this.#opened = true;
      this.#markedAt = this.#hub.clock.now();
      return this.#sent(this.#marker('OPENED', this.#cursor));
    }
    for (;;) {
      const reached = this.#sentThrough;
      // Among changes that never stop there may be no empty queue to wait for.
      if (reached !== undefined && this.#queue.length > 0 && this.#state !== 'ended' && this.#isMarkTime())
        return this.#bookmark(reached);
      const queued = this.#take();
      if (queued !== undefined) return this.#sent(queued);
      if (this.#state === 'ended') return this.#finish();
      if (this.#state === 'catching up') {
        await this.#catchUp();
      } else {
        await this.#alarm.until(this.#markedAt + this.#bookmarkMs);
      }
      if (this.#bookmarkIsDue()) return this.#bookmark(this.#covered());
    }
  }

  #take(): WatchMessage | undefined {
    const message = this.#queue.take();
    if (message !== undefined) this.#sentThrough = message.revision;
    return message;
  }

  /** See `WatchStream`. */
  handOver(take: TakeMessage): Promise<void> | undefined {
    if (this.#state !== 'live' || this.#queue.length > 0) return undefined;
    this.asked();
    const handover = new Handover(take);
    this.#handover = handover;
    this.#waitForMark(handover);
    return handover.over;
  }

  /** What an offer has queued. Never a bookmark: the hub stands before this page until all streams were offered it. */
  #giveQueued(handover: Handover): void {
    for (let message = this.#take(); message !== undefined; message = this.#take()) {
      if (!handover.give(message)) return this.given();
    }
    this.#queue.taken();
  }

  /** Between changes, bookmarks are handed over when they are due. A stream that is no longer live is for `next`. */
  #waitForMark(handover: Handover): void {
    if (this.#state !== 'live') return handover.end();
    this.#alarm.set(this.#markedAt + this.#bookmarkMs, () => {
      if (handover.isOver) return;
      if (this.#bookmarkIsDue()) {
        if (!handover.give(this.#bookmark(this.#covered()))) return;
        this.asked();
      }
      this.#waitForMark(handover);
    });
  }

  #bookmarkIsDue(): boolean {
    if (this.#queue.length > 0 || this.#state === 'ended') return false;
    if (this.#markAt !== undefined && this.#covered() >= this.#markAt) {
      this.#markAt = undefined;
      return true;
    }
    return this.#isMarkTime();
  }

  #isMarkTime(): boolean {
    return this.#hub.clock.now() >= this.#markedAt + this.#bookmarkMs;
  }

  #bookmark(revision: bigint): WatchMessage {
    this.#markedAt = this.#hub.clock.now();
    this.#sentThrough = undefined;
    return this.#sent(this.#marker('BOOKMARK', revision));
  }

  /** Joins the hub, or moves the cursor on by one page of the log. */
  async #catchUp(): Promise<void> {
    if (this.#hub.join(this, this.#cursor, this.#atEnd)) {
      this.#state = 'live';
      return;
    }
    if (this.#queue.length > 0) return;
    const page = await this.#pageInTime();
    if (page === undefined || this.#state !== 'catching up') return;
    const { messages, sizes } = this.#hub.messages(this.view, page, this.#cursor);
    this.#cursor = page.through;
    for (const [index, message] of messages.entries()) {
      const bytes = sizes[index] ?? 0;
      if (this.#queue.length > 0 && this.heldBytes + bytes > LIMITS.streamBytes) {
        // The rest of the page is read again when these have been taken, rather than held for a slow reader.
        this.#cursor = this.#queue.last?.revision ?? this.#cursor;
        break;
      }
      this.#queue.add(message, bytes);
    }
    this.#atEnd = page.events.length === 0;
  }

  /** The next page of the log; undefined when it is time for a bookmark before it has come, or for a look around. */
  async #pageInTime(): Promise<LogPage | undefined> {
    try {
      const page = this.#reader.take(this.#cursor);
      if (page !== undefined) return page;
    } catch (error) {
      this.endReason = error instanceof BatonError ? error.reason : 'INTERNAL';
      throw error;
    }
    const { retryAt } = this.#reader;
    const markTime = this.#markedAt + this.#bookmarkMs;
    await this.#alarm.until(retryAt > this.#hub.clock.now() ? Math.min(retryAt, markTime) : markTime);
    return undefined;
  }

  /** Everything up to here that matches was sent, or is in the queue. */
  #covered(): bigint {
    const position = this.#state === 'live' ? this.#hub.position : undefined;
    return position !== undefined && position > this.#cursor ? position : this.#cursor;
  }

  #marker(kind: WatchKind, revision: bigint): WatchMessage {
    const resumeToken = encodeResumeToken({ epoch: this.epoch, revision });
    return { kind, events: [], revision, resumeToken, payload: false };
  }

  #sent(message: WatchMessage): WatchMessage {
    this.given();
    return message;
  }

  #finish(): undefined {
    this.#hub.remove(this);
    const error = this.#error;
    this.#error = undefined;
    if (error !== undefined) throw error;
    return undefined;
  }

  /** Ends the stream from the server's side: what is queued is still delivered, then a last token, then the error. */
  end(error: BatonError): void {
    if (this.#state === 'ended') return;
    const revision = this.#covered();
    this.#state = 'ended';
    this.#error = error;
    this.endReason = error.reason;
    this.#hub.retire(this);
    this.#left();
    this.#queue.add(this.#marker('BOOKMARK', revision), 0);
    this.#alarm.wake();
  }

  /** The writer has come for a message from elsewhere, which goes before what is here. */
  asked(): void {
    this.#pulled = true;
    this.#queue.taken();
  }

  /** It has been given that message. */
  given(): void {
    this.#lastSentAt = this.#hub.clock.now();
    this.#pulled = false;
  }

  /** How long the writer has been busy with one message, in milliseconds. */
  stalledMs(now: number): number {
    return this.#pulled || !this.#opened ? 0 : now - this.#lastSentAt;
  }

  /** Ends the stream at once: its writer is blocked, so what is queued is dropped and nothing can be said any more. */
  breakOff(error: BatonError): void {
    const { onBreak } = this;
    this.endReason = error.reason;
    this.close();
    onBreak?.(error);
  }

  /** Ends the stream from the reader's side and drops what it held. A pending `next` gets undefined. */
  close(): void {
    this.#state = 'ended';
    this.#error = undefined;
    this.#queue.clear();
    this.#hub.remove(this);
    this.#left();
    this.#alarm.wake();
  }

  #left(): void {
    this.#alarm.cancel();
    for (const callback of this.#onEnd.splice(0)) callback();
  }
}
