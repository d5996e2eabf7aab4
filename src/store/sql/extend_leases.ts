import type { LeaseKey } from '../lease_token.js';
import { hasKey } from '../key_sql.js';
import { FOR_UPDATE, IS_UNDER_LEASE, isLive, leaseEnd, type OnLocked } from '../lease_sql.js';
import type { Queryable, Statement } from '../pool.js';

/** The items whose leases are held and live, locked in order of id, row by row through the key. */
const held = (onLocked: OnLocked): string => `
  select i.*, r.id, r.lease_ms, r.attempt_time, r.cancel_requested, s.timeout_ms
  from (select * from item order by run_id) i
  cross join lateral (
    select r.id, r.pipeline, r.stage, r.lease_ms, r.attempt_time, r.cancel_requested, r.state, r.lease_expire_time
    from baton.runs r
    where r.id = i.run_id and ${IS_UNDER_LEASE}
    offset 0 ${FOR_UPDATE[onLocked]}
  ) r
  cross join lateral (
    select s.timeout_ms from baton.stages s where s.pipeline = r.pipeline and s.name = r.stage offset 0
  ) s
  where ${isLive('r')}`;

/** An extension never shortens a lease. */
const END = `greatest(r.lease_expire_time, ${leaseEnd('coalesce(nullif(held.asked_ms, 0), held.lease_ms)', 'held', 'held')})`;

/**
 * Extends leases and nothing else. The SET list must name lease_expire_time alone: the trigger that makes an event
 * fires for every other column, and a heartbeat is no change of the run.
 */
const sql = (onLocked: OnLocked): Statement => ({
  name: `extend_leases_${onLocked}`,
  text: `
with item as materialized (
  select * from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[]) with ordinality
    as i (run_id, lease_number, lease_id, asked_ms, position)
), held as materialized (${held(onLocked)}
)
update baton.runs r set lease_expire_time = ${END}
from held
where ${hasKey('r.id', 'held.id')}
returning held.position, r.lease_expire_time, r.cancel_requested`,
});

/** The same with news of the work, which are a change and an event. */
const sqlWithNews = (onLocked: OnLocked): Statement => ({
  name: `extend_leases_with_news_${onLocked}`,
  text: `
with item as materialized (
  select * from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::bigint[], $5::float8[], $6::text[], $7::text[])
    with ordinality as i (run_id, lease_number, lease_id, asked_ms, progress, status_message, checkpoint, position)
), held as materialized (${held(onLocked)}
)
update baton.runs r set
  lease_expire_time = ${END},
  progress = coalesce(held.progress, r.progress),
  status_message = coalesce(held.status_message, r.status_message),
  checkpoint = coalesce(held.checkpoint::jsonb, r.checkpoint)
from held
where ${hasKey('r.id', 'held.id')}
returning held.position, r.lease_expire_time, r.cancel_requested`,
});

const SQL = {
  // One that waits is kept from the connections of those that do not.
  wait: { plain: sql('wait').text, news: sqlWithNews('wait').text },
  skip: { plain: sql('skip'), news: sqlWithNews('skip') },
};

export interface Extension {
  readonly runId: string;
  readonly lease: LeaseKey;
  /** 0 for the duration the lease was claimed with. */
  readonly leaseMs: number;
  readonly progress: number | undefined;
  readonly statusMessage: string | undefined;
  /** JSON text of an object. */
  readonly checkpoint: string | undefined;
}

export interface ExtendedLease {
  readonly leaseExpireTime: Date;
  readonly cancelRequested: boolean;
}

/** Whether an extension is a change of the run as well. */
export function hasNews(item: Extension): boolean {
  return item.progress !== undefined || item.statusMessage !== undefined || item.checkpoint !== undefined;
}

/**
 * Two statements where some items bring news and others do not.
 *
 * @returns for each item its lease, or undefined where it is no longer held, or, with 'skip', locked by somebody else
 */
export async function extendLeases(
  db: Queryable,
  items: readonly Extension[],
  onLocked: OnLocked = 'wait',
): Promise<(ExtendedLease | undefined)[]> {
  const extended = new Map<Extension, ExtendedLease>();
  for (const news of [false, true]) {
    const part = items.filter((item) => hasNews(item) === news);
    if (part.length === 0) continue;
    const values: unknown[] = [
      part.map((item) => item.runId),
      part.map((item) => item.lease.number),
      part.map((item) => item.lease.id),
      part.map((item) => item.leaseMs),
    ];
    if (news) {
      values.push(
        part.map((item) => item.progress ?? null),
        part.map((item) => item.statusMessage ?? null),
        part.map((item) => item.checkpoint ?? null),
      );
    }
    type Row = { position: bigint; lease_expire_time: Date; cancel_requested: boolean };
    for (const row of await db.query<Row>(SQL[onLocked][news ? 'news' : 'plain'], values)) {
      const item = part[Number(row.position) - 1];
      if (item === undefined) continue;
      extended.set(item, { leaseExpireTime: row.lease_expire_time, cancelRequested: row.cancel_requested });
    }
  }
  return items.map((item) => extended.get(item));
}
