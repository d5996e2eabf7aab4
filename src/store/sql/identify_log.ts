import type { Queryable } from '../pool.js';

const SQL = `select i.outcome, i.system_is_known from baton.identify_log() i`;

/** What became of the log's epoch; the function's own comment in the migration says when which. */
export interface Identified {
  readonly outcome: 'same' | 'adopted' | 'epoch' | 'timeline' | 'standby';
  /** Whether this role may ask for the identity of the cluster. */
  readonly systemIsKnown: boolean;
}

/** Makes sure that the epoch in the log belongs to the database that it is in. Any number of servers may do it at once. */
export async function identifyLog(db: Queryable): Promise<Identified> {
  const [row] = await db.query<{ outcome: Identified['outcome']; system_is_known: boolean }>(SQL);
  if (row === undefined) throw new Error('the log was not identified');
  return { outcome: row.outcome, systemIsKnown: row.system_is_known };
}
