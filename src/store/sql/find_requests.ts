import type { Run } from '../../run/run.js';
import type { Queryable } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

const SQL = `
select ${runColumns('r')}, r.request_hash
from baton.runs r
where r.request_id = any ($1::text[])`;

export interface KnownRequest {
  readonly run: Run;
  /** Absent for a run that plain SQL made under this request_id. */
  readonly requestHash: Buffer | undefined;
}

/** The runs that were created under these request ids, by request id. */
export async function findRequests(
  db: Queryable,
  requestIds: readonly string[],
): Promise<Map<string, KnownRequest>> {
  const rows = await db.query<RunRow & { request_hash: Buffer | null }>(SQL, [requestIds]);
  return new Map(
    rows.map((row) => [
      row.request_id ?? '',
      { run: decodeRun(row), requestHash: row.request_hash ?? undefined },
    ]),
  );
}
