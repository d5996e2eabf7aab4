import { statusMeanings, waitingStatus, type PipelineDefinition } from '../../run/pipeline.js';
import type { Queryable } from '../pool.js';

/** Creates the pipeline or takes the lock of its row, under which one definition is replaced by another. */
const PUT = `
insert into baton.pipelines as p (name, description, initial_status, error_status, canceled_status)
values ($1::text, $2::text, $3::text, $4::text, $5::text)
on conflict (name) do update set
  description = excluded.description, initial_status = excluded.initial_status, error_status = excluded.error_status,
  canceled_status = excluded.canceled_status, generation = p.generation + 1, update_time = clock_timestamp()`;

/**
 * Open runs whose status the new definition would not know, one row per status; and those that it would take from the
 * worker who holds them, or make ACTIVE without anybody who does, so that they would be so for ever.
 */
const STRANDED = `
select r.status, count(*)::int as runs
from baton.runs r
left join unnest($2::text[], $3::text[]::baton.run_state[]) as m (status, state) on m.status = r.status
where r.pipeline = $1::text and r.state in ('PENDING', 'ACTIVE')
  and (m.status is null or (m.state = 'ACTIVE') <> (r.state = 'ACTIVE'))
group by r.status
order by r.status`;

/** A stage keeps its pause when the definition changes. */
const PUT_STAGES = `
insert into baton.stages as s (
  pipeline, position, name, waiting_status, processing_status, done_status, lease_ms, timeout_ms, max_attempts,
  backoff_initial_ms, backoff_multiplier, backoff_max_ms, backoff_jitter, max_active, max_active_per_key, paused
)
select
  $1::text, i.position - 1, i.name, i.waiting_status, i.processing_status, i.done_status, i.lease_ms, i.timeout_ms,
  i.max_attempts, i.backoff_initial_ms, i.backoff_multiplier, i.backoff_max_ms, i.backoff_jitter, i.max_active,
  i.max_active_per_key, i.name = any ($2::text[])
from unnest(
  $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::int[], $10::bigint[],
  $11::float8[], $12::bigint[], $13::float8[], $14::int[], $15::int[]
) with ordinality as i (
  name, waiting_status, processing_status, done_status, lease_ms, timeout_ms, max_attempts, backoff_initial_ms,
  backoff_multiplier, backoff_max_ms, backoff_jitter, max_active, max_active_per_key, position
)`;

const PUT_STATUSES = `
insert into baton.pipeline_statuses (pipeline, status, stage, state)
select $1::text, i.status, i.stage, i.state
from unnest($2::text[], $3::text[], $4::baton.run_state[]) as i (status, stage, state)`;

/** Waits for transactions that are moving runs by the old definition: what they wrote has to be looked at, too. */
const LOCK = `select p.name from baton.pipelines p where p.name = $1::text for update`;

/**
 * Runs whose status now stands for another stage or state get it; the trigger derives both from the status. Locked in
 * order of id, as every statement here does, so that no two wait for each other in a circle.
 */
const REMAP = `
with moved as materialized (
  select r.id, ps.stage, ps.state
  from baton.runs r
  join baton.pipeline_statuses ps on ps.pipeline = r.pipeline and ps.status = r.status
  where r.pipeline = $1::text and r.state in ('PENDING', 'ACTIVE') and (r.stage, r.state) is distinct from (ps.stage, ps.state)
  order by r.id
  for update of r
)
update baton.runs r set stage = moved.stage, state = moved.state
from moved
where r.id = moved.id`;

export interface StrandedStatus {
  readonly status: string;
  readonly runs: number;
}

/**
 * Creates a pipeline or replaces its whole definition. Runs inside a transaction of the caller.
 *
 * @returns the statuses that open runs are in and that the definition lacks, or gives to work that is not theirs; unless
 *   empty, the caller must roll back
 */
export async function putPipeline(tx: Queryable, definition: PipelineDefinition): Promise<StrandedStatus[]> {
  const { name, stages } = definition;
  await tx.query(PUT, [
    name,
    definition.description,
    definition.initialStatus,
    definition.errorStatus,
    definition.canceledStatus,
  ]);
  await tx.query(LOCK, [name]);
  const meanings = statusMeanings(definition);
  const stranded = await tx.query<{ status: string; runs: number }>(STRANDED, [
    name,
    meanings.map((row) => row.status),
    meanings.map((row) => row.state),
  ]);
  if (stranded.length > 0) return stranded;

  const paused = await tx.query<{ name: string }>(
    'select s.name from baton.stages s where s.pipeline = $1::text and s.paused',
    [name],
  );
  await tx.query('delete from baton.stages where pipeline = $1::text', [name]);
  await tx.query('delete from baton.pipeline_statuses where pipeline = $1::text', [name]);
  await tx.query(PUT_STAGES, [
    name,
    paused.map((row) => row.name),
    stages.map((stage) => stage.name),
    stages.map((_, index) => waitingStatus(definition, index)),
    stages.map((stage) => stage.processingStatus),
    stages.map((stage) => stage.doneStatus),
    stages.map((stage) => stage.leaseMs),
    stages.map((stage) => stage.timeoutMs),
    stages.map((stage) => stage.maxAttempts),
    stages.map((stage) => stage.backoff.initialMs),
    stages.map((stage) => stage.backoff.multiplier),
    stages.map((stage) => stage.backoff.maxMs),
    stages.map((stage) => stage.backoff.jitter),
    stages.map((stage) => stage.maxActive),
    stages.map((stage) => stage.maxActivePerKey),
  ]);
  await tx.query(PUT_STATUSES, [
    name,
    meanings.map((row) => row.status),
    meanings.map((row) => row.stage),
    meanings.map((row) => row.state),
  ]);
  await tx.query(REMAP, [name]);
  return [];
}
