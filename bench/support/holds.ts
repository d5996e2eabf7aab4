import pg from 'pg';
import { execute } from './cluster.js';
import { pause } from './loops.js';

/** Keeps VACUUM from removing what dies from now on. */
export interface Hold {
  release(): Promise<void>;
}

export type HoldKind = 'old snapshot' | 'open xid' | 'idle slot';
export const HOLDS: readonly HoldKind[] = ['old snapshot', 'open xid', 'idle slot'];

const SLOT = 'bench_idle';
const XMIN_TIMEOUT_MS = 5000;

/** As somebody's report, forgotten transaction or lost replica does. */
export function hold(kind: HoldKind, databaseUrl: string): Promise<Hold> {
  switch (kind) {
    case 'old snapshot':
      return holdTransaction(
        databaseUrl,
        'begin isolation level repeatable read; select count(*) from pg_class',
      );
    case 'open xid':
      return holdTransaction(databaseUrl, 'begin; select pg_current_xact_id()');
    case 'idle slot':
      return holdSlot(databaseUrl);
  }
}

async function holdTransaction(connectionString: string, sql: string): Promise<Hold> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  await client.query(sql);
  return { release: () => client.end() };
}

/** What `pg` offers for replication without declaring it. */
interface ReplicationConnection {
  once(event: 'replicationStart', listener: () => void): void;
  sendCopyFromChunk(chunk: Buffer): void;
}

/**
 * The slot of a standby with hot_standby_feedback that has gone away: it keeps the oldest transaction that the standby
 * still needed. A slot without feedback would only keep WAL, a logical one only rows of the catalog.
 */
async function holdSlot(databaseUrl: string): Promise<Hold> {
  const [row] = await execute<{ xmin: string; lsn: string }>(
    databaseUrl,
    `select pg_snapshot_xmin(pg_current_snapshot())::text as xmin, slot.lsn::text
     from pg_create_physical_replication_slot('${SLOT}', true) slot`,
  );
  if (row === undefined) throw new Error('no slot was made');
  const standby = new pg.Client({
    connectionString: databaseUrl,
    replication: 'true',
  } as pg.ClientConfig);
  await standby.connect();
  const { connection } = standby as unknown as { connection: ReplicationConnection };
  const started = new Promise<void>((resolve) => connection.once('replicationStart', resolve));
  // Ends with the connection and not before.
  const streaming = standby
    .query(`START_REPLICATION SLOT ${SLOT} PHYSICAL ${row.lsn}`)
    .catch(() => undefined);
  await started;
  connection.sendCopyFromChunk(feedback(BigInt(row.xmin)));
  await slotHolds(databaseUrl);
  await Promise.all([standby.end(), streaming]);
  return {
    async release() {
      await execute(databaseUrl, `select pg_drop_replication_slot('${SLOT}')`);
    },
  };
}

/** Hot standby feedback: the tag, a time that nobody needs, xmin and its epoch, and no catalog_xmin. */
function feedback(xmin: bigint): Buffer {
  const message = Buffer.alloc(25);
  message.write('h', 0, 'latin1');
  message.writeUInt32BE(Number(xmin & 0xffff_ffffn), 9);
  message.writeUInt32BE(Number(xmin >> 32n), 13);
  return message;
}

async function slotHolds(databaseUrl: string): Promise<void> {
  const deadline = performance.now() + XMIN_TIMEOUT_MS;
  for (;;) {
    const [slot] = await execute<{ xmin: string | null }>(
      databaseUrl,
      `select xmin::text from pg_replication_slots where slot_name = '${SLOT}'`,
    );
    if (slot?.xmin != null) return;
    if (performance.now() > deadline) throw new Error('the slot holds no transaction');
    await pause(20);
  }
}
