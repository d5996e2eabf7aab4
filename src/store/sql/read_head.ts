import type { Queryable, Statement } from '../pool.js';
import { isLostSql } from './is_lost.js';

/** The log's identity and bounds. `revision` is that of the last committed change, or 0 on a new database. */
export const HEAD = `
select
  log.epoch::text as epoch,
  log.oldest_revision,
  coalesce((select e.revision from baton.run_events e order by e.revision desc limit 1), log.oldest_revision - 1)
    as revision
from baton.log log`;

const SQL: Statement = {
  name: 'read_head',
  text: `select head.*, ${isLostSql(1)} as is_lost from (${HEAD}) head`,
};

export interface LogHead {
  readonly epoch: string;
  /** The oldest revision of the kept history. */
  readonly oldestRevision: bigint;
  /** The revision of the last committed change. */
  readonly revision: bigint;
  /** Whether the place that was asked about was lost in a failover. */
  readonly isLost: boolean;
}

interface Row {
  epoch: string;
  oldest_revision: bigint;
  revision: bigint;
  is_lost: boolean;
}

/** @param place a revision up to which somebody has read */
export async function readHead(db: Queryable, place?: bigint): Promise<LogHead> {
  const [row] = await db.query<Row>(SQL, [place ?? null]);
  if (row === undefined) throw new Error('the log has no row of its own');
  const { epoch, oldest_revision: oldestRevision, revision, is_lost: isLost } = row;
  return { epoch, oldestRevision, revision, isLost };
}
