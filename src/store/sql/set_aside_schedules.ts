import type { Queryable } from '../pool.js';

/** Leaves schedules alone for a while; their tick stays what it is. One that has moved on meanwhile is not touched. */
const SQL = `
update baton.schedules s set due_time = clock_timestamp() + $3::bigint * interval '1 millisecond'
from unnest($1::text[], $2::text[]) as i (pipeline, name)
where s.pipeline = i.pipeline and s.name = i.name and s.due_time <= clock_timestamp()`;

export async function setAsideSchedules(
  db: Queryable,
  schedules: readonly { readonly pipeline: string; readonly name: string }[],
  retryMs: number,
): Promise<void> {
  await db.query(SQL, [
    schedules.map((schedule) => schedule.pipeline),
    schedules.map((schedule) => schedule.name),
    retryMs,
  ]);
}
