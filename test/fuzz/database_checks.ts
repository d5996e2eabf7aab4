/** What has to be true of the database when everything is over. */
import type { Queryable } from '../../src/store/pool.js';
import { waitFor } from '../support/wait.js';

/** A lease that has ended is found within 2 s, on a machine that has time. */
const LEASES_TIMEOUT_MS = 20_000;

/** Runs whose history is not 1, 2, 3 … up to their version, or does not end where they are. */
const GAPS = `
  select r.id::text, r.version::text, count(e.version)::text as events, max(e.version)::text as last
  from baton.runs r left join baton.run_events e on e.run_id = r.id
  group by r.id
  having count(e.version) <> r.version or max(e.version) <> r.version
    or count(distinct e.version) <> count(e.version)
    or (array_agg(e.status order by e.version desc))[1] is distinct from r.status
  limit 5`;
const WITHOUT_LEASE = `
  select id::text from baton.runs
  where state = 'ACTIVE' and (lease_expire_time is null or lease_expire_time < clock_timestamp()) limit 5`;

export async function checkDatabase(db: Queryable): Promise<string[]> {
  const gaps = await db.query<{ id: string; version: string; events: string; last: string }>(GAPS);
  let left: readonly { readonly id: string }[] = [];
  await waitFor(
    async () => (left = await db.query<{ id: string }>(WITHOUT_LEASE)).length === 0,
    'ended leases to be found',
    LEASES_TIMEOUT_MS,
  ).catch(() => undefined);
  return [
    ...gaps.map((row) => `the history of run ${row.id} has a gap: ${JSON.stringify(row)}`),
    ...left.map(({ id }) => `run ${id} is ACTIVE without a lease that lives`),
  ];
}
