import type { Queryable } from '../pool.js';
import { ATTEMPTS_ALLOWED, RETRY_DELAY_MS } from './update_runs.js';

const TIMED_OUT = `(s.timeout_ms > 0 and r.attempt_time + s.timeout_ms * interval '1 millisecond' <= clock_timestamp())`;

/**
 * Ends leases whose time is over by the database's clock: the run waits again after its stage's backoff, or fails when
 * no attempt is left. The backoff counts from the end of the lease, which is also where a timeout cuts it off: counted
 * from now, the time until somebody looked would come on top of it. Never before now, because plain SQL may have written
 * any time there, also one that no schedule_time can be. Rows that another server has in hand are passed over, so many servers share the work. So are those
 * of a pipeline that is just being redefined, which the move of a run would have to wait for: nobody else's lease waits
 * along.
 */
const SQL = `
with ended as materialized (
  select r.id, r.lease_number
  from baton.runs r
  join baton.pipelines p on p.name = r.pipeline
  where r.lease_id is not null and r.lease_expire_time <= (select clock_timestamp())
  order by r.lease_expire_time
  limit $1::int
  for update of r skip locked
  for key share of p skip locked
)
update baton.runs r set
  status = case
    when r.cancel_requested then p.canceled_status
    when r.attempt < ${ATTEMPTS_ALLOWED} then s.waiting_status
    else p.error_status
  end,
  attempts_allowed = ${ATTEMPTS_ALLOWED},
  schedule_time = case
    when r.attempt < ${ATTEMPTS_ALLOWED} and not r.cancel_requested
      then greatest(clock_timestamp(), r.lease_expire_time + ${RETRY_DELAY_MS} * interval '1 millisecond')
    else r.schedule_time
  end,
  error_code = case when ${TIMED_OUT} then 'ATTEMPT_TIMED_OUT' else 'LEASE_EXPIRED' end,
  error_message = case
    when ${TIMED_OUT} then format('the attempt took longer than the timeout of its stage (attempt %s of %s)', r.attempt, ${ATTEMPTS_ALLOWED})
    else format('the lease of worker %L ended without a report (attempt %s of %s)', r.worker_id, r.attempt, ${ATTEMPTS_ALLOWED})
  end
from ended, baton.stages s, baton.pipelines p
where r.id = ended.id and r.lease_number = ended.lease_number
  and s.pipeline = r.pipeline and s.name = r.stage and p.name = r.pipeline
returning r.id`;

/** @returns how many leases were ended; as many as the limit means that there may be more */
export async function expireLeases(db: Queryable, limit: number): Promise<number> {
  return (await db.query(SQL, [limit])).length;
}
