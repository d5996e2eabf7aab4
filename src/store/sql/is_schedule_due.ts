import type { Queryable } from '../pool.js';

/** The earliest is at the start of the index; a search for any that is due would be planned as a scan of the table. */
const SQL = `
select coalesce((select min(s.due_time) from baton.schedules s) <= clock_timestamp(), false) as due`;

/** Whether any tick is to be made now. It locks nothing: most looks find none. */
export async function isScheduleDue(db: Queryable): Promise<boolean> {
  const [row] = await db.query<{ due: boolean }>(SQL);
  return row?.due === true;
}
