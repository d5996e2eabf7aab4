import type { Queryable } from '../pool.js';

/** Sets the tick that comes next. */
const SQL = `
update baton.schedules s set next_time = i.next_time, due_time = i.next_time
from unnest($1::text[], $2::text[], $3::timestamptz[]) as i (pipeline, name, next_time)
where s.pipeline = i.pipeline and s.name = i.name`;

export interface ScheduleMove {
  readonly pipeline: string;
  readonly name: string;
  readonly nextTime: Date;
}

/** Runs inside the transaction that has locked the schedules and created the runs of the ticks before. */
export async function moveSchedules(tx: Queryable, moves: readonly ScheduleMove[]): Promise<void> {
  await tx.query(SQL, [
    moves.map((move) => move.pipeline),
    moves.map((move) => move.name),
    moves.map((move) => move.nextTime.toISOString()),
  ]);
}
