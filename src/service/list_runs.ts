import { LIMITS } from '../base/limits.js';
import { fitRuns } from '../run/run_size.js';
import type { Queryable } from '../store/pool.js';
import { listRuns as selectRuns } from '../store/sql/list_runs.js';
import { assertSameLog, encodeResumeToken } from '../watch/resume_token.js';
import type { ListRunsRequest, ListRunsResponse } from './api.js';
import { decodePageToken, encodePageToken } from './page_token.js';
import { Checks } from './validate.js';

function isUuid(text: string): boolean {
  const found = new Checks();
  found.uuid('id', text);
  return !found.any;
}

/** @returns the page size to use */
export function validateList(found: Checks, request: ListRunsRequest): number {
  found.filter('filter', request.filter);
  return found.pageSize(request.pageSize);
}

export async function listRuns(db: Queryable, request: ListRunsRequest): Promise<ListRunsResponse> {
  const found = new Checks();
  const pageSize = validateList(found, request);
  found.throwIfAny();
  const scope = ['ListRuns', request.filter] as const;
  const before = decodePageToken(request.pageToken, scope, isUuid);
  // One more than asked for tells whether there is another page; one that was cut short has another.
  const payloadBytes = request.includePayload ? LIMITS.answerBytes : undefined;
  const page = await selectRuns(db, request.filter, before?.key, pageSize + 1, payloadBytes);
  if (before?.epoch !== undefined) assertSameLog(before.epoch, page.epoch);
  const runs = fitRuns(page.runs.slice(0, pageSize), LIMITS.answerBytes);
  const last = page.isCut || runs.length < page.runs.length ? runs.at(-1) : undefined;
  return {
    runs,
    nextPageToken: last === undefined ? '' : encodePageToken(last.id, scope, page.epoch),
    revision: page.revision,
    resumeToken: encodeResumeToken({ epoch: page.epoch, revision: page.revision }),
  };
}
