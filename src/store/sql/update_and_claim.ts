import type { Run } from '../../run/run.js';
import { appendBy, appendMode } from '../append_sql.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';
import {
  CLAIMED,
  decodeClaims,
  knownSql,
  LEFT,
  nextSql,
  NO_LIMITS,
  PICKED,
  slotSql,
  stageSql,
  type ClaimMarks,
  type ClaimResult,
  type ClaimRow,
  type ClaimSlot,
  type StageKnown,
} from './claim_runs.js';
import { IS_HELD_UNDER } from './find_claims.js';
import { planned, UPDATED, updateValues, type RunUpdate } from './update_runs.js';

/**
 * Moves claimed runs and claims the next ones of one stage for the workers that ask for it, in one statement and so in
 * one transaction, which appends its events at once. A worker whose update is refused gets no claim.
 *
 * One snapshot cannot show what the statement itself does, and a statement cannot lock in two steps. So an update is left
 * alone, and is told as put off, where its claim needs a transaction: the stage has limits or does not exist, the run goes
 * into the very stage that is claimed from, or the request_id still holds claims.
 */
const SQL: Statement = {
  name: 'update_runs_and_claim',
  text: `
with ${appendBy('$13')}, ${planned('skip')}, want as materialized (
  select *
  from unnest($16::bigint[], $17::text[], $18::bigint[], $19::int[], $20::text[])
    as w (position, worker_id, lease_ms, runs, request_id)
), known as materialized (
  select ${knownSql('$14', '$15')}
), put_off as materialized (
  select planned.position
  from planned
  join want on want.position = planned.position
  cross join known
  where not known.stage_known or known.stage_limited
    or (planned.to_state = 'PENDING' and planned.pipeline = $14::text and planned.to_stage = $15::text)
    or (want.request_id <> '' and exists (
      select from (select $14::text as pipeline, $15::text as stage, want.worker_id, want.request_id) i
      join baton.runs r on ${IS_HELD_UNDER}))
), plan as materialized (
  select * from planned where planned.position not in (select position from put_off)
), stage as materialized (${stageSql('$14', '$15', NO_LIMITS)}
), slot as materialized (${slotSql('(select want.* from want join plan on plan.position = want.position) w', 'w.position')}
), locked as materialized (${nextSql('$14', '$15', '(select count(*) from slot)', { times: '$21', ids: '$22' })}
), ${PICKED}, updated as (${UPDATED}
), claimed as (${CLAIMED}
), changed as (
  select null::bigint as waiter, 0 as place, null::bigint as lease_number, null::text as lease_id, null::text as claimable_time, updated.*,
    null::jsonb as input, null::jsonb as output, null::jsonb as checkpoint, false as payload_omitted
  from updated
  union all
  select claimed.waiter, claimed.place, claimed.lease_number, claimed.lease_id, claimed.claimable_time, null::bigint, ${runColumns('claimed')},
    claimed.input, claimed.output, claimed.checkpoint, claimed.payload_omitted
  from claimed
)
select known.*, ${LEFT} as runs_left, (select array_agg(position)::text[] from put_off) as put_off, changed.*
from known
left join changed on true
order by changed.place`,
};

/** An update, and what its worker wants to claim with it. */
export interface UpdateAndClaim {
  readonly update: RunUpdate;
  readonly slot: ClaimSlot | undefined;
}

export interface UpdateAndClaimResult {
  /** For each item the run as it is now; undefined where the update was refused, its run is locked, or it was put off. */
  readonly runs: readonly (Run | undefined)[];
  /** The items that were put off. */
  readonly putOff: ReadonlySet<number>;
  /** The claims of each item. */
  readonly claimed: ClaimResult;
}

type Row = StageKnown & { put_off: string[] | null } & (
    { id: null } | (RunRow & { waiter: null; position: bigint }) | (ClaimRow & { position: null })
  );

/**
 * Passes over runs that somebody else has locked. Commits by itself.
 *
 * @param items at most one per run
 */
export async function updateAndClaim(
  db: Queryable,
  { pipeline, stage }: { readonly pipeline: string; readonly stage: string },
  items: readonly UpdateAndClaim[],
  marks: ClaimMarks,
): Promise<UpdateAndClaimResult> {
  const wants = items.flatMap(({ slot }, index) =>
    slot === undefined ? [] : [{ ...slot, position: index + 1 }],
  );
  const rows = await db.query<Row>(SQL, [
    ...updateValues(items.map(({ update }) => update)),
    appendMode(db),
    pipeline,
    stage,
    wants.map(({ position }) => position),
    wants.map(({ workerId }) => workerId),
    wants.map(({ leaseMs }) => leaseMs),
    wants.map(({ maxRuns }) => maxRuns),
    wants.map(({ requestId }) => requestId ?? ''),
    marks.map((mark) => mark.claimableTime),
    marks.map((mark) => mark.id),
  ]);
  const runs: (Run | undefined)[] = items.map(() => undefined);
  const claims: (StageKnown & (ClaimRow | { id: null }))[] = [];
  for (const row of rows) {
    if (row.id === null || row.position === null) claims.push(row);
    else runs[Number(row.position) - 1] = decodeRun(row);
  }
  return {
    runs,
    putOff: new Set((rows[0]?.put_off ?? []).map((position) => Number(position) - 1)),
    claimed: decodeClaims(claims, items.length),
  };
}
