import type { Queryable } from '../pool.js';

/**
 * The counts of all pipelines in the order of their names: a row for each stage, in order. Runs that have ended are in
 * no stage, and their counts come with every row of their pipeline. Everything is of one moment. Reads every run that
 * is kept, once: 220 to 300 ms for 1,000,000 of them. An index of ended runs would cost each of them more than a look
 * now and then does.
 */
const SQL = `
with clock as materialized (
  select clock_timestamp() as now
), counted as materialized (
  select
    r.pipeline, r.stage, r.state, count(*) as runs,
    min(r.claimable_time) filter (where r.state = 'PENDING' and r.claimable_time <= (select clock.now from clock))
      as oldest_claimable_time
  from baton.runs r
  group by r.pipeline, r.stage, r.state
), ended as (
  select
    c.pipeline,
    sum(c.runs) filter (where c.state = 'SUCCEEDED')::int8 as succeeded,
    sum(c.runs) filter (where c.state = 'FAILED')::int8 as failed,
    sum(c.runs) filter (where c.state = 'CANCELED')::int8 as canceled
  from counted c
  group by c.pipeline
)
select
  p.name as pipeline,
  coalesce(ended.succeeded, 0) as succeeded,
  coalesce(ended.failed, 0) as failed,
  coalesce(ended.canceled, 0) as canceled,
  s.name as stage,
  coalesce(pending.runs, 0) as pending,
  coalesce(active.runs, 0) as active,
  (extract(epoch from (select clock.now from clock) - pending.oldest_claimable_time) * 1000)::float8 as oldest_waiting_ms,
  p.paused or s.paused as paused
from baton.pipelines p
join baton.stages s on s.pipeline = p.name
left join ended on ended.pipeline = p.name
left join counted pending on pending.pipeline = p.name and pending.stage = s.name and pending.state = 'PENDING'
left join counted active on active.pipeline = p.name and active.stage = s.name and active.state = 'ACTIVE'
order by p.name collate "C", s.position`;

/** Counts of one stage, and of the ended runs of its pipeline. */
export interface StageCounts {
  readonly pipeline: string;
  readonly succeeded: bigint;
  readonly failed: bigint;
  readonly canceled: bigint;
  readonly stage: string;
  readonly pending: bigint;
  readonly active: bigint;
  /** For how long the run that has waited longest has been claimable; undefined when none is. */
  readonly oldestWaitingMs: number | undefined;
  readonly paused: boolean;
}

type Row = Omit<StageCounts, 'oldestWaitingMs'> & { readonly oldest_waiting_ms: number | null };

export async function getStats(db: Queryable): Promise<StageCounts[]> {
  const rows = await db.query<Row>(SQL);
  return rows.map(({ oldest_waiting_ms, ...counts }) => ({
    ...counts,
    oldestWaitingMs: oldest_waiting_ms ?? undefined,
  }));
}
