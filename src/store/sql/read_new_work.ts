import type { Queryable } from '../pool.js';

/**
 * How many runs began to wait in each stage after a revision, and how far that looked. This is all that a server
 * reads of the log while nobody watches and somebody waits for a claim. One row comes back even without work.
 */
const SQL = `
with fresh as materialized (
  select e.revision, e.pipeline, e.stage, e.state
  from baton.run_events e
  where e.revision > $1::bigint
), work as (
  select f.pipeline, f.stage, count(*)::int as runs from fresh f where f.state = 'PENDING' group by f.pipeline, f.stage
)
select reach.through, work.pipeline, work.stage, work.runs
from (select coalesce(max(f.revision), $1::bigint) as through from fresh f) reach
left join work on true`;

export interface NewWork {
  readonly pipeline: string;
  readonly stage: string;
  readonly runs: number;
}

interface Row {
  through: bigint;
  pipeline: string | null;
  stage: string | null;
  runs: number | null;
}

/** @returns the work, and the revision up to and with which it was counted */
export async function readNewWork(
  db: Queryable,
  after: bigint,
): Promise<{ through: bigint; work: NewWork[] }> {
  const rows = await db.query<Row>(SQL, [after]);
  return {
    through: rows[0]?.through ?? after,
    work: rows.flatMap(({ pipeline, stage, runs }) =>
      pipeline === null || stage === null || runs === null ? [] : [{ pipeline, stage, runs }],
    ),
  };
}
