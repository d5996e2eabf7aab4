import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Queryable } from '../store/pool.js';
import { readHead } from '../store/sql/read_head.js';
import type { Hub } from '../watch/hub.js';
import { resolveStart } from '../watch/resume_token.js';
import type { CallContext, WatchRunsRequest, WatchStream } from './api.js';
import { Violations } from './validate.js';

/** Opens a stream of changes. It is closed when the caller goes away, whatever it is doing then. */
export async function watchRuns(
  db: Queryable,
  hub: Hub,
  request: WatchRunsRequest,
  call: CallContext,
): Promise<WatchStream> {
  const found = new Violations();
  found.filter('filter', request.filter);
  if (request.bookmarkIntervalMs !== 0) {
    found.durationMs(
      'bookmark_interval',
      request.bookmarkIntervalMs,
      LIMITS.bookmarkMinMs,
      LIMITS.bookmarkMaxMs,
    );
  }
  found.throwIfAny();
  if (request.includeState) throw new BatonError('NOT_IMPLEMENTED', 'include_state is not built yet');
  if (request.untilTerminal) throw new BatonError('NOT_IMPLEMENTED', 'until_terminal is not built yet');

  const head = await readHead(db);
  const start = resolveStart(request.after, head);
  throwIfAborted(call.signal);
  const bookmarkMs = request.bookmarkIntervalMs === 0 ? LIMITS.bookmarkDefaultMs : request.bookmarkIntervalMs;
  const stream = hub.open(request.filter, request.includePayload, head.epoch, start, bookmarkMs);
  const onAbort = (): void => stream.close();
  call.signal.addEventListener('abort', onAbort, { once: true });
  stream.onEnd = () => call.signal.removeEventListener('abort', onAbort);
  return stream;
}
