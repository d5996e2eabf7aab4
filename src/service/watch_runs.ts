import { throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { RunFilter } from '../run/filter.js';
import type { SharedRead } from '../base/shared_read.js';
import type { Pool } from '../store/pool.js';
import { listRuns, type RunPage } from '../store/sql/list_runs.js';
import { isLost } from '../store/sql/is_lost.js';
import type { LogHead } from '../store/sql/read_head.js';
import type { Hub } from '../watch/hub.js';
import type { LogIdentity } from '../watch/identity.js';
import { assertNotLost, isToken, resolveStart } from '../watch/resume_token.js';
import type { Snapshots } from '../watch/snapshots.js';
import { StateStream } from '../watch/state_stream.js';
import { UntilTerminal } from '../watch/until_terminal.js';
import type { CallContext, WatchRunsRequest, WatchStream } from './api.js';
import { runNotFound } from './get_run.js';
import { Checks } from './validate.js';

interface WatchSources {
  readonly pool: Pool;
  readonly hub: Hub;
  readonly snapshots: Snapshots;
  readonly identity: LogIdentity;
  /** Of the log; thousands of streams that come back after a restart share it. */
  readonly head: SharedRead<LogHead>;
}

export function validateWatch(found: Checks, request: WatchRunsRequest): void {
  found.filter('filter', request.filter);
  if (request.bookmarkIntervalMs !== 0) {
    found.durationMs(
      'bookmark_interval',
      request.bookmarkIntervalMs,
      LIMITS.bookmarkMinMs,
      LIMITS.bookmarkMaxMs,
    );
  }
  if (request.includeState && request.after !== '') {
    found.add('include_state', 'starts with the state as it is now, so it does not go with after');
  }
  if (request.untilTerminal) validateUntilTerminal(found, request.filter);
}

/** Opens a stream of changes. It is closed when the caller goes away, whatever it is doing then. */
export async function watchRuns(
  { pool, hub, snapshots, identity, head: sharedHead }: WatchSources,
  request: WatchRunsRequest,
  call: CallContext,
): Promise<WatchStream> {
  const found = new Checks();
  validateWatch(found, request);
  found.throwIfAny();

  // A token is compared with the log as it is in this moment, whatever has happened to the database since the last look.
  if (isToken(request.after)) await identity.check();
  const head = await sharedHead.get();
  const known = request.untilTerminal ? await knownRuns(pool, request.filter) : undefined;
  // From now: from the moment at which the runs were looked at, so that no end falls between the two.
  const start =
    known !== undefined && request.after === '' ? known.revision : resolveStart(request.after, head);
  if (isToken(request.after)) assertNotLost(start, await isLost(pool, start));
  throwIfAborted(call.signal);
  const bookmarkMs = request.bookmarkIntervalMs === 0 ? LIMITS.bookmarkDefaultMs : request.bookmarkIntervalMs;
  const changes = hub.open(request.filter, request.includePayload, head.epoch, start, bookmarkMs);
  if (known !== undefined) changes.markAt(known.revision);
  const withState = request.includeState ? new StateStream(snapshots, hub.clock, changes) : changes;
  const stream = known === undefined ? withState : new UntilTerminal(withState, known.runs, known.revision);
  const onAbort = (): void => stream.close();
  call.signal.addEventListener('abort', onAbort);
  changes.onBreak = (error) => call.abandon(error);
  changes.whenEnded(() => call.signal.removeEventListener('abort', onAbort));
  return stream;
}

/** The end of a stream is decided by events of these runs, so the filter must let all of them through. */
function validateUntilTerminal(found: Checks, filter: RunFilter): void {
  if (filter.runIds.length === 0) found.add('filter.run_ids', 'is required with until_terminal');
  for (const [field, values] of [
    ['stages', filter.stages],
    ['statuses', filter.statuses],
    ['states', filter.states],
  ] as const) {
    if (values.length > 0)
      found.add(`filter.${field}`, 'does not go with until_terminal, which needs every change of the runs');
  }
}

async function knownRuns(pool: Pool, filter: RunFilter): Promise<RunPage> {
  const page = await listRuns(pool, filter, undefined, filter.runIds.length);
  const missing = filter.runIds.find((id) => !page.runs.some((run) => run.id === id));
  if (missing !== undefined) throw runNotFound(missing);
  return page;
}
