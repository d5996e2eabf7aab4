import { LIMITS } from '../../base/limits.js';
import type { Run } from '../../run/run.js';
import { isLight, payloadOf, payloadWhere, readBytes, storedBytes } from '../payload_sql.js';
import type { Queryable, Statement } from '../pool.js';
import { decodeRun, runColumns, type RunRow } from '../rows.js';

const PAYLOAD = payloadOf('r');
const MAX = LIMITS.payloadTextBytes;

/** What takes more as it is stored is not even unpacked to see. */
const SQL: Statement = {
  name: 'get_run',
  text: `
select ${runColumns('r')}, ${payloadWhere(`t.read_bytes <= ${MAX}`, PAYLOAD)}
from baton.runs r
cross join lateral (
  select case when ${storedBytes(PAYLOAD)} <= ${4 * MAX} then ${readBytes(PAYLOAD)} else ${4 * MAX} end as read_bytes offset 0
) t
where r.id = $1::uuid`,
};

/** Nothing is unpacked, nor fetched from beside the row. */
const LIGHT: Statement = {
  name: 'get_light_run',
  text: `
select ${runColumns('r')}, ${payloadWhere(isLight(PAYLOAD), PAYLOAD)}
from baton.runs r
where r.id = $1::uuid`,
};

/** The same without its payload. */
const BARE: Statement = {
  name: 'get_bare_run',
  text: `
select ${runColumns('r')}
from baton.runs r
where r.id = $1::uuid`,
};

/** @returns the run with its payload, unless that is longer than any that was accepted */
export function getRun(db: Queryable, id: string): Promise<Run | undefined> {
  return get(db, SQL, id);
}

/** @returns the run with its payload, unless that takes a while to read */
export function getLightRun(db: Queryable, id: string): Promise<Run | undefined> {
  return get(db, LIGHT, id);
}

export function getBareRun(db: Queryable, id: string): Promise<Run | undefined> {
  return get(db, BARE, id);
}

async function get(db: Queryable, statement: Statement, id: string): Promise<Run | undefined> {
  const [row] = await db.query<RunRow>(statement, [id]);
  return row === undefined ? undefined : decodeRun(row);
}
