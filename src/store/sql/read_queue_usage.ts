import type { Queryable } from '../pool.js';

/**
 * How full the queue of notifications is, from 0 to 1. There is one for the whole cluster, of 8 GB, and a commit that
 * notifies fails when it is full. What keeps it from being emptied is a session that listens, in any database, and
 * stays in a transaction.
 */
const SQL = `select pg_catalog.pg_notification_queue_usage()::float8 as usage`;

export async function readQueueUsage(db: Queryable): Promise<number> {
  const [row] = await db.query<{ usage: number }>(SQL);
  if (row === undefined) throw new Error('the usage of the notification queue has no row');
  return row.usage;
}
