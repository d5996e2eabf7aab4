import type { Queryable } from '../pool.js';

const PIPELINE = `
update baton.pipelines p set paused = coalesce($2::boolean, p.paused), update_time = clock_timestamp()
where p.name = $1::text
returning p.name`;

const STAGE = `
update baton.stages s set paused = $3::boolean
where s.pipeline = $1::text and s.name = $2::text
returning s.name`;

/**
 * Stops or resumes the claims of a whole pipeline, whose pause is its own and not that of its stages. Keeps its definition
 * as it is until the end of the transaction.
 *
 * @param paused undefined leaves it as it is
 * @returns whether there is such a pipeline
 */
export async function pausePipeline(
  tx: Queryable,
  pipeline: string,
  paused: boolean | undefined,
): Promise<boolean> {
  return (await tx.query(PIPELINE, [pipeline, paused ?? null])).length > 0;
}

/**
 * The same for one stage, inside a transaction that has the pipeline by `pausePipeline`: a statement of its own, since the
 * stages are replaced with the definition, and it has to see those that are there after the wait for that.
 *
 * @returns whether there is such a stage
 */
export async function pauseStage(
  tx: Queryable,
  pipeline: string,
  stage: string,
  paused: boolean,
): Promise<boolean> {
  return (await tx.query(STAGE, [pipeline, stage, paused])).length > 0;
}
