import type { Queryable } from '../pool.js';

/**
 * Removes runs that ended long ago, a few at a time. A run stays while the log still has an event of it, because its
 * events take their input from it.
 */
const SQL = `
with old as materialized (
  select r.id
  from baton.runs r
  where r.end_time < (select clock_timestamp()) - $1::bigint * interval '1 millisecond'
    and r.state in ('SUCCEEDED', 'FAILED', 'CANCELED')
    and not exists (
      select from baton.run_events e
      where e.run_id = r.id and e.revision >= (select log.oldest_revision from baton.log log)
    )
  order by r.end_time
  limit $2::int
  for update of r skip locked
)
delete from baton.runs r using old where r.id = old.id
returning r.id`;

/** @returns how many were removed; as many as the limit means that there may be more */
export async function removeRuns(db: Queryable, olderThanMs: number, limit: number): Promise<number> {
  return (await db.query(SQL, [olderThanMs, limit])).length;
}
