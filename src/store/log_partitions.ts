import type { Pool, Queryable } from './pool.js';
import { readHead } from './sql/read_head.js';

/**
 * The log is partitioned by revision. Partitions are made ahead of the head and dropped whole behind it. Their locks
 * are never waited for: a reader's transaction that was left open must not make writers queue behind this.
 */
const LOCK_TIMEOUT = '100ms';

/** Rows that went into the default partition, because none was made in time, are removed in steps of so many. */
const DEFAULT_ROWS = 5000;

/** Distance kept from rows of the default partition, which writers may be adding to meanwhile. */
const DEFAULT_MARGIN = 10_000n;

interface Partition {
  readonly name: string;
  /** First revision of the partition, and the first one after it. */
  readonly from: bigint;
  readonly to: bigint;
}

const PARTITIONS = `
select c.relname as name, pg_get_expr(c.relpartbound, c.oid) as bound
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'baton.run_events'::regclass`;

const BOUND = /^FOR VALUES FROM \('(\d+)'\) TO \('(\d+)'\)$/;

/** The partitions in order of revision, without the default one. */
async function readPartitions(db: Queryable): Promise<Partition[]> {
  const rows = await db.query<{ name: string; bound: string }>(PARTITIONS);
  const partitions = rows.flatMap(({ name, bound }) => {
    const match = BOUND.exec(bound);
    return match === null ? [] : [{ name, from: BigInt(match[1] ?? 0), to: BigInt(match[2] ?? 0) }];
  });
  return partitions.sort((a, b) => (a.from < b.from ? -1 : 1));
}

/** One server at a time does this; the others find it done. */
async function lockMaintenance(tx: Queryable): Promise<boolean> {
  await tx.query(`set local lock_timeout = '${LOCK_TIMEOUT}'`);
  const [row] = await tx.query<{ locked: boolean }>(
    `select pg_try_advisory_xact_lock(hashtext('baton.run_events')) as locked`,
  );
  return row?.locked ?? false;
}

/** Attached rather than created in place, because that keeps no writer waiting. */
async function addPartition(tx: Queryable, from: bigint, to: bigint): Promise<void> {
  const name = `baton.run_events_p${from}`;
  await tx.query(`create table ${name} (like baton.run_events including all)`);
  await tx.query(
    `alter table baton.run_events attach partition ${name} for values from (${from}) to (${to})`,
  );
}

/** The least revision that can be given out: the head does not tell it before the first change behind a hole. */
async function nextRevision(tx: Queryable, head: bigint): Promise<bigint> {
  const [row] = await tx.query<{ last: bigint }>('select s.last_value as last from baton.revision s');
  return row !== undefined && row.last > head ? row.last : head;
}

/**
 * Makes sure that there are `ahead` whole partitions of `size` revisions after the head.
 *
 * @returns how many were made
 */
export async function extendLog(pool: Pool, size: bigint, ahead: number): Promise<number> {
  return pool.transaction(async (tx) => {
    if (!(await lockMaintenance(tx))) return 0;
    const { revision } = await readHead(tx);
    const last = (await readPartitions(tx)).at(-1);
    const [row] = await tx.query<{ stray: bigint | null }>(
      'select max(revision) as stray from baton.run_events_default',
    );
    const stray = row?.stray == null ? 0n : row.stray + DEFAULT_MARGIN;
    let from = last === undefined || stray > last.to ? stray : last.to;
    // After a failover the next revision is far ahead, behind a hole that needs no partitions.
    const next = await nextRevision(tx, revision);
    if (next >= from) from += ((next - from) / size) * size;
    let made = 0;
    for (; from < next + size * BigInt(ahead); from += size) {
      await addPartition(tx, from, from + size);
      made += 1;
    }
    return made;
  });
}

/** The append time of the last event of a partition; undefined for an empty one. */
const IS_OLD = `
select e.append_time < clock_timestamp() - $3::bigint * interval '1 millisecond' as old
from baton.run_events e
where e.revision >= $1::bigint and e.revision < $2::bigint
order by e.revision desc
limit 1`;

const BEHIND_HOLE = `
select h.through_revision + 1 as revision
from baton.log_holes h
where h.after_revision < $1::bigint - 1 and h.through_revision > $1::bigint - 1`;

/** The oldest revision is named in tokens by the one before it, which must not be one that was lost. */
async function behindHole(tx: Queryable, oldest: bigint): Promise<bigint> {
  const [row] = await tx.query<{ revision: bigint }>(BEHIND_HOLE, [oldest]);
  return row?.revision ?? oldest;
}

/**
 * Publishes that history before some revision is gone: whole partitions that the head has left behind and whose last
 * event was appended longer than `keepMs` ago. Decided by revision, not by the time of a change: a change that is
 * committed late gets a late revision, so nothing that was never visible can be dropped.
 *
 * @returns the oldest revision that is kept from now on
 */
export async function trimLog(pool: Pool, keepMs: number): Promise<bigint> {
  return pool.transaction(async (tx) => {
    const head = await readHead(tx);
    if (!(await lockMaintenance(tx))) return head.oldestRevision;
    let oldest = head.oldestRevision;
    for (const { from, to } of await readPartitions(tx)) {
      if (head.revision < to) break;
      const [row] = await tx.query<{ old: boolean }>(IS_OLD, [from, to, keepMs]);
      if (row?.old === false) break;
      if (to > oldest) oldest = to;
    }
    oldest = await behindHole(tx, oldest);
    if (oldest > head.oldestRevision)
      await tx.query('update baton.log set oldest_revision = $1::bigint', [oldest]);
    return oldest;
  });
}

/**
 * Drops what `trimLog` has published as gone. A partition whose lock cannot be had at once stays until the next time;
 * readers do not look at it any more.
 *
 * @returns how many partitions were dropped
 */
export async function dropTrimmed(pool: Pool): Promise<number> {
  const { oldestRevision } = await readHead(pool);
  const gone = (await readPartitions(pool)).filter((partition) => partition.to <= oldestRevision);
  let dropped = 0;
  for (const { name } of gone) {
    await pool.transaction(async (tx) => {
      if (!(await lockMaintenance(tx))) return;
      await tx.query(`drop table if exists baton.${name}`);
      dropped += 1;
    });
  }
  await pool.query(
    `delete from baton.run_events_default where revision in (
       select e.revision from baton.run_events_default e where e.revision < $1::bigint order by e.revision limit $2::int)`,
    [oldestRevision, DEFAULT_ROWS],
  );
  return dropped;
}
