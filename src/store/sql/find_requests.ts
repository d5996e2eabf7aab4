import type { Run } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';
import { contentValues, type NewRun } from './create_runs.js';

/**
 * The hash decides for runs that an API made before the database could compare by itself; the comparison for all
 * others, those of plain SQL and of `baton.create_run` included.
 */
const SQL = `
select
  ${runColumns('r')},
  coalesce(r.request_hash = i.request_hash, false)
  or baton.is_request_of(
    r, i.pipeline, i.repository, i.labels::jsonb, i.input::jsonb, i.priority, i.schedule_time, i.concurrency_key,
    i.max_attempts
  ) as same
from unnest(
  $1::text[], $2::text[], $3::text[], $4::text[], $5::int[], $6::timestamptz[], $7::text[], $8::int[], $9::text[],
  $10::bytea[]
) as i (
  pipeline, repository, labels, input, priority, schedule_time, concurrency_key, max_attempts, request_id, request_hash
)
join baton.runs r on r.request_id = i.request_id`;

export interface KnownRequest {
  readonly run: Run;
  /** Whether the run was asked for in the same words. */
  readonly same: boolean;
}

/**
 * The runs that were created under the request ids of these, by request id.
 *
 * @param runs at most one for each request id
 */
export async function findRequests(
  db: Queryable,
  runs: readonly NewRun[],
): Promise<Map<string, KnownRequest>> {
  const rows = await db.query<RunRow & { same: boolean }>(SQL, contentValues(runs));
  return new Map(rows.map((row) => [row.request_id ?? '', { run: decodeRun(row), same: row.same }]));
}
