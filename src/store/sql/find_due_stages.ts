import { LIMITS } from '../../base/limits.js';
import type { Queryable } from '../pool.js';

/**
 * Which of these stages have a run that could be claimed now, and when the next run of any of them comes due: schedules
 * and retries come due without an event. Each priority is looked up by itself, so that the index is walked in order of
 * time and two of its entries are enough, however many runs wait: 3 ms for 100 stages beside 200,000 delayed runs.
 */
const SQL = `
with now as materialized (
  select clock_timestamp() as time
)
select
  w.pipeline, w.stage, bool_or(waits.claimable_time <= now.time) as due,
  -- Not a difference of times: that fails where plain SQL wrote an infinite one.
  ((extract(epoch from min(waits.claimable_time) filter (where waits.claimable_time > now.time))
    - extract(epoch from now.time)) * 1000)::float8 as next_ms
from now
cross join unnest($1::text[], $2::text[]) as w (pipeline, stage)
cross join generate_series(0, ${LIMITS.priorityMax}) as p (priority)
cross join lateral (
  (select r.claimable_time
  from baton.runs r
  where r.pipeline = w.pipeline and r.stage = w.stage and r.state = 'PENDING' and r.priority = p.priority
  order by r.claimable_time
  limit 1)
  union all
  (select r.claimable_time
  from baton.runs r
  where r.pipeline = w.pipeline and r.stage = w.stage and r.state = 'PENDING' and r.priority = p.priority
    and r.claimable_time > now.time
  order by r.claimable_time
  limit 1)
) waits
group by w.pipeline, w.stage, now.time`;

export interface StageKey {
  readonly pipeline: string;
  readonly stage: string;
}

export interface DueStages {
  readonly due: readonly StageKey[];
  /** Milliseconds until a run of any of the stages comes due that is not yet; undefined when there is none. */
  readonly nextMs: number | undefined;
}

interface Row extends StageKey {
  due: boolean;
  next_ms: number | null;
}

export async function findDueStages(db: Queryable, stages: readonly StageKey[]): Promise<DueStages> {
  const rows = await db.query<Row>(SQL, [stages.map((key) => key.pipeline), stages.map((key) => key.stage)]);
  const next = rows.flatMap(({ next_ms: ms }) => (ms === null ? [] : [ms]));
  return {
    due: rows.filter(({ due }) => due).map(({ pipeline, stage }) => ({ pipeline, stage })),
    nextMs: next.length === 0 ? undefined : Math.min(...next),
  };
}
