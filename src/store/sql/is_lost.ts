import type { Queryable } from '../pool.js';

/** Whether a revision, the parameter of this number, was lost in a failover: it stood for changes that are not there. */
export const isLostSql = (parameter: number): string =>
  `exists (
    select from baton.log_holes h
    where h.after_revision < $${parameter}::bigint and h.through_revision > $${parameter}::bigint
  )`;

const SQL = `select ${isLostSql(1)} as lost`;

export async function isLost(db: Queryable, revision: bigint): Promise<boolean> {
  const [row] = await db.query<{ lost: boolean }>(SQL, [revision]);
  return row?.lost ?? false;
}
