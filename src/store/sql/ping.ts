import type { Pool, Statement } from '../pool.js';
import { readOnlyError } from '../store_error.js';

/**
 * On the way that most calls take. It reads a table, since a database without Baton's schema, or with rights that were
 * taken, is of as little use as one that is away.
 */
const PING: Statement = {
  name: 'ping',
  text: `
select current_setting('transaction_read_only') = 'on' as is_read_only
from baton.log`,
};

/**
 * Asks whether runs can be written.
 *
 * @param all connections to the same database: of one that is read-only they are let go of, since the next ones may lead to
 *   its successor
 * @throws BatonError DATABASE_UNAVAILABLE
 */
export async function ping(db: Pool, all: readonly Pool[]): Promise<void> {
  const [row] = await db.query<{ is_read_only: boolean }>(PING);
  if (row?.is_read_only === false) return;
  for (const pool of all) pool.renew();
  throw readOnlyError();
}
