import type { Queryable } from '../pool.js';

/** Which of these stages have a run that could be claimed now: schedules and retries come due without an event. */
const SQL = `
select w.pipeline, w.stage
from unnest($1::text[], $2::text[]) as w (pipeline, stage)
where exists (
  select from baton.runs r
  where r.pipeline = w.pipeline and r.stage = w.stage and r.state = 'PENDING'
    and r.claimable_time <= clock_timestamp()
)`;

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
