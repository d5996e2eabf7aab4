import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Client, Transport } from '@connectrpc/connect';
import type { RunFilterSchema } from '../../gen/baton/v1/filter_pb.js';
import type { JobService } from '../../gen/baton/v1/job_service_pb.js';
import type { RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import type { WatchTokenError } from './watch_errors.js';

/**
 * Where to watch: the address of a server (`http://127.0.0.1:50051`; gRPC, in Node only), a Connect transport, or a
 * client of the JobService. With an address every attempt has a connection of its own, so that one which has died
 * without a word is left behind; a transport that keeps such a connection has to find that out by itself
 * (`pingIntervalMs` of its session).
 */
export type WatchServer = string | URL | Transport | Client<typeof JobService>;

export interface WatchRunsOptions {
  /** One or several servers in front of the same database; the next one is tried when one fails. */
  readonly servers: WatchServer | readonly WatchServer[];
  /** The runs to watch. Default: all. */
  readonly filter?: MessageInitShape<typeof RunFilterSchema>;
  /** A `resumeToken` of an item, of ListRuns or of another watch; `oldest` for all that is kept. Default: from now. */
  readonly after?: string;
  /** First the matching runs as they are, then the changes. Not together with `after`. */
  readonly includeState?: boolean;
  /** With `input`, `output` and `checkpoint`. */
  readonly includePayload?: boolean;
  /** Return when every run of `filter.runIds` has ended. */
  readonly untilTerminal?: boolean;
  /** 1000 to 60000, default 10000. A stream that is silent for three times as long is taken for dead. */
  readonly bookmarkIntervalMs?: number;
  /** Ends the watch: the iterator throws the signal's reason. */
  readonly signal?: AbortSignal;
  /** Sent with every call. */
  readonly headers?: Record<string, string>;
  /** What to do when the server cannot continue from the token: the default is to throw the `WatchTokenError`. */
  readonly onTokenLost?: 'throw' | 'restart-with-state';
  /** Told before each wait for another attempt. What it throws ends the watch. */
  readonly onReconnect?: (reconnect: Reconnect) => void;
  /** Throw the last error when there was no message for so long, in milliseconds. Default: try for ever. */
  readonly giveUpAfterMs?: number;
}

/** Why and when the watch tries again. */
export interface Reconnect {
  readonly error: unknown;
  /** Attempts in a row that brought nothing new, this one included; from 1. */
  readonly attempt: number;
  readonly delayMs: number;
  /** Which of `servers` comes next. */
  readonly server: number;
}

/**
 * What a watch yields. `resumeToken`, stored together with what was done for the item, continues with exactly the
 * next one: give it to `after`. Inside of a batch it has a form of its own, which only `watchRuns` understands;
 * the token of an item of another kind is understood by every client of WatchRuns.
 */
export type WatchItem = WatchOpened | WatchReset | WatchState | WatchSynced | WatchEvent | WatchBookmark;

/** The watch has begun; once, and not with a state. From here on nothing is missed. */
export interface WatchOpened {
  readonly kind: 'opened';
  readonly revision: bigint;
  readonly resumeToken: string;
}

/** Forget the runs that were given so far: the state begins anew. */
export interface WatchReset {
  readonly kind: 'reset';
  /** `interrupted`: the stream broke before the state was complete. `token_lost`: changes may have been missed. */
  readonly reason: 'interrupted' | 'token_lost';
  /** With `token_lost`. */
  readonly error: WatchTokenError | undefined;
}

/** One run as it is at the snapshot's revision. */
export interface WatchState {
  readonly kind: 'state';
  readonly run: Run;
  readonly revision: bigint;
}

/** The state is complete; the changes after it follow. */
export interface WatchSynced {
  readonly kind: 'synced';
  readonly revision: bigint;
  readonly resumeToken: string;
}

/** One committed change. */
export interface WatchEvent {
  readonly kind: 'event';
  readonly event: RunEvent;
  /** The run right after the change; the same as `event.run`. */
  readonly run: Run;
  readonly revision: bigint;
  readonly resumeToken: string;
}

/** All changes up to here were given, also when nothing matched. Store its token now and then on a quiet filter. */
export interface WatchBookmark {
  readonly kind: 'bookmark';
  readonly revision: bigint;
  readonly resumeToken: string;
}
