import type { JsonObject } from '@bufbuild/protobuf';
import { LIMITS } from '../base/limits.js';
import { toPayload, toText } from './worker_payload.js';

/** What a handler wants to be known of its run. */
export interface News {
  readonly progress?: number;
  readonly statusMessage?: string;
  readonly checkpoint?: JsonObject;
}

interface Waiter {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

interface Letter {
  news: News;
  /** Who waits until it is durable. */
  waiters: Waiter[];
}

/**
 * The news of one run on their way to the server. New ones replace those that were not sent yet.
 *
 *     written ──take──▶ sent ──arrived / refused──▶ nothing
 *        ▲                └─────returned────────┐
 *        └──────────────────────────────────────┘
 */
export class Mailbox {
  #written: Letter = { news: {}, waiters: [] };
  #sent: Letter | undefined;
  #isUrgent = false;
  #closed: Error | undefined;

  /** Somebody waits for the news to be sent, now rather than with the next renewal. */
  get isUrgent(): boolean {
    return this.#isUrgent;
  }

  progress(fraction: number, message: string | undefined, atOnce: boolean): void {
    if (Number.isNaN(fraction)) throw new RangeError('progress must be a number from 0 to 1');
    this.#add({
      progress: Math.min(1, Math.max(0, fraction)),
      ...(message !== undefined && { statusMessage: toText(message, LIMITS.statusMessageChars) }),
    });
    this.#isUrgent ||= atOnce;
  }

  /** Resolves when it is durable; rejects when it was refused, or cannot become durable any more. */
  checkpoint(state: object): Promise<void> {
    const stored = new Promise<void>((resolve, reject) => {
      const checkpoint = toPayload('a checkpoint', state, LIMITS.checkpointBytes);
      if (this.#closed !== undefined) throw this.#closed;
      this.#add({ checkpoint });
      this.#written.waiters.push({ resolve, reject });
      this.#isUrgent = true;
    });
    // A handler that does not wait for it must not end the process.
    stored.catch(() => undefined);
    return stored;
  }

  #add(news: News): void {
    this.#written.news = { ...this.#written.news, ...news };
  }

  /** Takes what was written, and what is on its way, to be sent. */
  take(): News {
    this.returned();
    this.#sent = this.#written;
    this.#written = { news: {}, waiters: [] };
    this.#isUrgent = false;
    return this.#sent.news;
  }

  /** What was sent is durable. */
  arrived(): void {
    for (const { resolve } of this.#sent?.waiters ?? []) resolve();
    this.#sent = undefined;
  }

  /** The server does not take what was sent. */
  refused(error: Error): void {
    for (const { reject } of this.#sent?.waiters ?? []) reject(error);
    this.#sent = undefined;
  }

  /** What was sent may not have arrived: it is sent again, unless it was replaced meanwhile. */
  returned(): void {
    if (this.#sent === undefined) return;
    const { news, waiters } = this.#sent;
    this.#written.news = { ...news, ...this.#written.news };
    this.#written.waiters = [...waiters, ...this.#written.waiters];
    this.#isUrgent ||= waiters.length > 0;
    this.#sent = undefined;
  }

  /** No more is sent. */
  close(error: Error): void {
    this.#closed = error;
    this.take();
    this.refused(error);
  }
}
