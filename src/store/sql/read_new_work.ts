import type { Queryable, Statement } from '../pool.js';

/** Of a look that finds more, the single changes are not told. */
const TOLD_CHANGES = 256;

/**
 * How many runs began to wait in each stage after a revision, how many left it, and how far that looked. This is all
 * that a server reads of the log while nobody watches and somebody waits for a claim. One row comes back even without
 * work.
 */
const SQL: Statement = {
  name: 'read_new_work',
  text: `
with fresh as materialized (
  select e.revision, e.run_id, e.version, e.pipeline, e.stage, e.state, e.previous_stage, e.previous_state
  from baton.run_events e
  where e.revision > $1::bigint
), found as materialized (
  select coalesce(max(f.revision), $1::bigint) as through, count(*) <= ${TOLD_CHANGES} as few from fresh f
), work as (
  select
    w.pipeline, w.stage, count(w.change)::int as runs, sum(w.freed)::int as freed,
    array_agg(w.change) filter (where w.change is not null and (select few from found)) as changes
  from (
    select f.pipeline, f.stage, f.run_id || '/' || f.version as change, 0 as freed
    from fresh f where f.state = 'PENDING'
    union all
    select f.pipeline, f.previous_stage, null, 1 from fresh f
    where f.previous_state = 'ACTIVE' and (f.state <> 'ACTIVE' or f.stage <> f.previous_stage)
  ) w
  group by w.pipeline, w.stage
)
select found.through, work.pipeline, work.stage, work.runs, work.freed, work.changes
from found
left join work on true`,
};

export interface NewWork {
  readonly pipeline: string;
  readonly stage: string;
  /** Runs that began to wait in the stage. */
  readonly runs: number;
  /** Runs that were at work in the stage and no longer are, which makes room where the stage has limits. */
  readonly freed: number;
}

/** With the keys of the changes after which runs wait; none when there were many. */
export interface WorkFound extends NewWork {
  readonly changes: readonly string[];
}

interface Row {
  through: bigint;
  pipeline: string | null;
  stage: string | null;
  runs: number | null;
  freed: number | null;
  changes: string[] | null;
}

/** @returns the work, and the revision up to and with which it was counted */
export async function readNewWork(
  db: Queryable,
  after: bigint,
): Promise<{ through: bigint; work: WorkFound[] }> {
  const rows = await db.query<Row>(SQL, [after]);
  return {
    through: rows[0]?.through ?? after,
    work: rows.flatMap(({ pipeline, stage, runs, freed, changes }) =>
      pipeline === null || stage === null || runs === null || freed === null
        ? []
        : [{ pipeline, stage, runs, freed, changes: changes ?? [] }],
    ),
  };
}
