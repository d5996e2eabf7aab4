/**
 * What a statement does about rows that somebody else has locked. A statement for many callers passes over them, or
 * one open transaction would hold up everybody; whoever was passed over is tried again alone, and waits.
 */
export type OnLocked = 'wait' | 'skip';

export const FOR_UPDATE: Readonly<Record<OnLocked, string>> = {
  wait: 'for update',
  skip: 'for update skip locked',
};

/**
 * Whether the run (alias r) is held under the lease of an item (alias i), be it live or not. Wrapped, so that the planner
 * looks runs up by their key and in no other way: right after an ANALYZE that saw no run at work, it read all that were,
 * for each item again, through the index of those (215 ms against 24 ms for 500 items).
 */
export const IS_UNDER_LEASE = 'coalesce(r.lease_number = i.lease_number and r.lease_id = i.lease_id, false)';

/**
 * Whether the lease of a locked row is live. Asked outside of the subquery that locks, which has `offset 0` to keep it
 * there: a condition inside is held against the snapshot first, so a lease that ended while its extension was being
 * committed was told lost without a look at that extension.
 */
export const isLive = (row: string): string =>
  `${row}.state = 'ACTIVE' and ${row}.lease_expire_time > clock_timestamp()`;

/**
 * When a lease of `ms` milliseconds from now would end: no later than the stage's timeout lets the attempt run. `run`
 * is an alias with `attempt_time`, `stage` one with `timeout_ms`.
 */
export function leaseEnd(ms: string, run: string, stage: string): string {
  const byLease = `clock_timestamp() + ${ms} * interval '1 millisecond'`;
  const byTimeout = `${run}.attempt_time + nullif(${stage}.timeout_ms, 0) * interval '1 millisecond'`;
  // least() passes over null, which is what a stage without timeout gives.
  return `least(${byLease}, ${byTimeout})`;
}
