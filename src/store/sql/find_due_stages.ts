import type { Queryable } from '../pool.js';

/** Which of these stages have a run that could be claimed now: schedules and retries come due without an event. */
const SQL = `
select w.pipeline, w.stage
from unnest($1::text[], $2::text[]) as w (pipeline, stage)
where (
  -- In claim order, so that the planner goes by that index and stops at the first run.
  select r.id
  from baton.runs r
  where r.pipeline = w.pipeline and r.stage = w.stage and r.state = 'PENDING'
    and r.claimable_time <= (select clock_timestamp())
  order by r.priority desc, r.claimable_time, r.id
  limit 1
) is not null`;

export interface StageKey {
  readonly pipeline: string;
  readonly stage: string;
}

export async function findDueStages(db: Queryable, stages: readonly StageKey[]): Promise<StageKey[]> {
  return db.query<{ pipeline: string; stage: string }>(SQL, [
    stages.map((key) => key.pipeline),
    stages.map((key) => key.stage),
  ]);
}
