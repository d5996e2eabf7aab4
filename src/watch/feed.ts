import type { Clock } from '../base/clock.js';
import type { ErrorReason } from '../base/errors.js';
import type { LogPage, PageMessages, View } from './message.js';

/** Why a stream is no more: the reason of its error, or CLOSED for a good end and for a reader that left. */
export type EndReason = ErrorReason | 'CLOSED';

/** What a stream, of type `S`, needs of the hub. */
export interface Feed<S> {
  readonly clock: Clock;
  /** Everything up to here was published; undefined while nobody needs the log. */
  readonly position: bigint | undefined;
  /** Makes the stream live if it can go on from its position without the log. */
  join(subscription: S, from: bigint, atEnd: boolean): boolean;
  readPage(after: bigint, payload: boolean, epoch: string): Promise<LogPage>;
  /** What a page holds for a view after a revision. */
  messages(view: View, page: LogPage, from: bigint): PageMessages;
  /** Forgets a stream that has ended. */
  remove(subscription: S): void;
  /** The same for one whose writer has still to take what is queued; it is told when that is done, or `remove` is. */
  retire(subscription: S): void;
}

export interface SubscriptionStart {
  readonly epoch: string;
  /** The stream starts after this revision. */
  readonly revision: bigint;
  readonly bookmarkMs: number;
  readonly endAt: number | undefined;
}
