/**
 * What a program needs of a Baton server: `import { watchRuns, worker } from 'baton/client'` follows runs, and works on
 * them.
 */
export { watchRuns } from './watch.js';
export { WatchProtocolError, WatchTokenError, type WatchRule } from './watch_errors.js';
export type {
  Reconnect,
  WatchBookmark,
  WatchEvent,
  WatchItem,
  WatchOpened,
  WatchReset,
  WatchRunsOptions,
  WatchServer,
  WatchState,
  WatchSynced,
} from './watch_types.js';
export { worker } from './worker.js';
export { FinalFailure, HandBack, RetryLater, RunAborted, type AbortCause } from './worker_errors.js';
export type {
  RunContext,
  RunHandler,
  Worker,
  WorkerErrorContext,
  WorkerOptions,
  WorkerServer,
  WorkerSettings,
} from './worker_types.js';
