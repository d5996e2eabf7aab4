import type { Pipeline } from '../../run/pipeline.js';
import type { Queryable } from '../pool.js';
import { decodePipeline, type PipelineRow } from '../rows.js';

const PIPELINES = `
select
  p.name, p.description, p.initial_status, p.error_status, p.canceled_status, p.paused, p.generation, p.create_time,
  p.update_time,
  (select coalesce(jsonb_agg(to_jsonb(s) order by s.position), '[]')
   from baton.stages s where s.pipeline = p.name) as stages,
  (select coalesce(jsonb_agg(to_jsonb(s) order by s.position), '[]')
   from baton.schedules s where s.pipeline = p.name) as schedules
from baton.pipelines p`;

export async function getPipeline(db: Queryable, name: string): Promise<Pipeline | undefined> {
  const [row] = await db.query<PipelineRow>(`${PIPELINES} where p.name = $1::text`, [name]);
  return row === undefined ? undefined : decodePipeline(row);
}

/** Those that begin before so many bytes of stages and schedules; the first in any case. */
const PAGE = `
select page.*
from (
  select p.*, count(*) over ()::int as page_rows, sum(p.bytes) over (order by p.name collate "C") - p.bytes as bytes_before
  from (
    select p.*, octet_length(p.stages::text) + octet_length(p.schedules::text) as bytes
    from (${PIPELINES} where p.name > $1::text collate "C" order by p.name collate "C" limit $2::int) p
    offset 0
  ) p
) page
where page.bytes_before < $3::bigint
order by page.name collate "C"`;

export interface PipelinePage {
  readonly pipelines: readonly Pipeline[];
  /** The page ended before its limit, because of its bytes. */
  readonly isCut: boolean;
}

/** Pipelines in order of name, after the given one. */
export async function listPipelines(
  db: Queryable,
  after: string,
  limit: number,
  maxBytes: number,
): Promise<PipelinePage> {
  const rows = await db.query<PipelineRow & { page_rows: number }>(PAGE, [after, limit, maxBytes]);
  return { pipelines: rows.map(decodePipeline), isCut: (rows[0]?.page_rows ?? 0) > rows.length };
}

/** Which of these pipelines exist. */
export async function getPipelineNames(db: Queryable, names: readonly string[]): Promise<string[]> {
  const rows = await db.query<{ name: string }>(
    'select p.name from baton.pipelines p where p.name = any ($1::text[])',
    [names],
  );
  return rows.map((row) => row.name);
}
