import { LIMITS } from '../base/limits.js';
import type { RunEvent } from '../run/run.js';
import { fitRuns } from '../run/run_size.js';
import type { Queryable } from '../store/pool.js';
import { getBareRun } from '../store/sql/get_run.js';
import { listRunEvents as selectEvents } from '../store/sql/list_run_events.js';
import { readHead } from '../store/sql/read_head.js';
import { assertSameLog } from '../watch/resume_token.js';
import type { ListRunEventsRequest, ListRunEventsResponse } from './api.js';
import { runNotFound } from './get_run.js';
import { decodePageToken, encodePageToken } from './page_token.js';
import { Checks } from './validate.js';

function fitEvents(events: readonly RunEvent[]): RunEvent[] {
  const runs = fitRuns(
    events.map(({ run }) => run),
    LIMITS.answerBytes,
  );
  return events.slice(0, runs.length).map((event, index) => ({ ...event, run: runs[index] ?? event.run }));
}

const isVersion = (text: string): boolean => /^\d{1,18}$/.test(text);

export async function listRunEvents(
  db: Queryable,
  request: ListRunEventsRequest,
): Promise<ListRunEventsResponse> {
  const found = new Checks();
  found.uuid('run_id', request.runId);
  const pageSize = found.pageSize(request.pageSize);
  found.throwIfAny();
  const scope = ['ListRunEvents', request.runId] as const;
  const after = decodePageToken(request.pageToken, scope, isVersion);
  const { epoch } = await readHead(db);
  if (after?.epoch !== undefined) assertSameLog(after.epoch, epoch);
  const payloadBytes = request.includePayload ? LIMITS.answerBytes : undefined;
  const version = BigInt(after?.key ?? 0);
  const page = await selectEvents(db, request.runId, version, pageSize, payloadBytes);
  const events = fitEvents(page.events);
  const last = events.at(-1);
  if (last === undefined) {
    // A run always has an event, unless its history is older than what is kept.
    if ((await getBareRun(db, request.runId)) === undefined) throw runNotFound(request.runId);
    return { events: [], nextPageToken: '' };
  }
  // A page can be cut short by its bytes, so only the run's own version tells whether there is more.
  const run = await getBareRun(db, request.runId);
  const isCut = page.isCut || events.length < page.events.length;
  const more = run === undefined ? isCut || events.length === pageSize : run.version > last.run.version;
  return {
    events,
    nextPageToken: more ? encodePageToken(String(last.run.version), scope, epoch) : '',
  };
}
