import type { Queryable } from '../pool.js';

/** The log's identity and bounds. `revision` is that of the last committed change, or 0 on a new database. */
export const HEAD = `
select
  log.epoch::text as epoch,
  log.oldest_revision,
  coalesce((select e.revision from baton.run_events e order by e.revision desc limit 1), log.oldest_revision - 1)
    as revision
from baton.log log`;

export interface LogHead {
  readonly epoch: string;
  /** The oldest revision of the kept history. */
  readonly oldestRevision: bigint;
  /** The revision of the last committed change. */
  readonly revision: bigint;
}

export async function readHead(db: Queryable): Promise<LogHead> {
  const [row] = await db.query<{ epoch: string; oldest_revision: bigint; revision: bigint }>(HEAD);
  if (row === undefined) throw new Error('the log has no row of its own');
  return { epoch: row.epoch, oldestRevision: row.oldest_revision, revision: row.revision };
}
