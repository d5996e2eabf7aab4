import type { Queryable } from '../pool.js';

const PIPELINE = `
update baton.pipelines p set paused = $2::boolean, update_time = clock_timestamp()
where p.name = $1::text`;

const STAGE = `
update baton.stages s set paused = $3::boolean
where s.pipeline = $1::text and s.name = $2::text
returning s.name`;

/** Stops or resumes the claims of a whole pipeline, whose pause is its own and not that of its stages. */
export async function pausePipeline(db: Queryable, pipeline: string, paused: boolean): Promise<void> {
  await db.query(PIPELINE, [pipeline, paused]);
}

/** The same for one stage. @returns whether there is such a stage */
export async function pauseStage(
  db: Queryable,
  pipeline: string,
  stage: string,
  paused: boolean,
): Promise<boolean> {
  return (await db.query(STAGE, [pipeline, stage, paused])).length > 0;
}
