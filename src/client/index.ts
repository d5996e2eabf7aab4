/** What a program needs to follow the runs of a Baton server: `import { watchRuns } from 'baton/client'`. */
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
