import { LIMITS } from '../../base/limits.js';
import type { Payload } from '../../run/run_size.js';
import { payloadOf, payloadWhere, readBytes } from '../payload_sql.js';
import type { Queryable, Statement } from '../pool.js';
import type { JsonObject } from '../../run/run.js';

/** Row by row through the key; see hasKey. Each is unpacked once to see how long it is. */
const SQL: Statement = {
  name: 'read_payloads',
  text: `
select page.id, ${payloadWhere(`page.read_bytes <= ${LIMITS.payloadTextBytes}`, payloadOf('page'))}
from (
  select i.*, p.*, sum(p.read_bytes) over (partition by i.answer order by i.place) - p.read_bytes as read_before
  from unnest($1::uuid[], $2::int[]) with ordinality as i (id, answer, place)
  cross join lateral (
    select r.input, r.output, r.checkpoint, ${readBytes(payloadOf('r'))} as read_bytes
    from baton.runs r
    where r.id = i.id
    offset 0
  ) p
) page
where page.read_before < ${LIMITS.answerBytes}`,
};

type PayloadRow = {
  id: string;
  input: JsonObject | null;
  output: JsonObject | null;
  checkpoint: JsonObject | null;
  payload_omitted: boolean;
};

/**
 * The payloads of runs by id, for several answers: of each as many as it could hold and one too many at most.
 *
 * @param answers for each run the answer that it is for; those of one answer in order
 * @returns none for what there was no room for; undefined for what is longer than anybody could send
 */
export async function readPayloads(
  db: Queryable,
  ids: readonly string[],
  answers: readonly number[],
): Promise<Map<string, Payload | undefined>> {
  const rows = await db.query<PayloadRow>(SQL, [ids, answers]);
  return new Map(
    rows.map(({ id, input, output, checkpoint, payload_omitted }) => [
      id,
      payload_omitted
        ? undefined
        : { input: input ?? undefined, output: output ?? undefined, checkpoint: checkpoint ?? undefined },
    ]),
  );
}
