import type { Queryable } from '../pool.js';

const SQL = `
select
  set_config('idle_in_transaction_session_timeout', $1::text, true),
  set_config('lock_timeout', $2::text, true)`;

export interface TransactionBounds {
  /**
   * The database ends the session when its client leaves the transaction alone for longer: what is locked must not stay
   * so behind a process that stands still.
   */
  readonly idleMs: number;
  /** How long a statement, or the commit, waits for what others have locked. */
  readonly lockMs: number;
}

/** Bounds the times of one transaction, from here to its end. */
export async function boundTransaction(tx: Queryable, { idleMs, lockMs }: TransactionBounds): Promise<void> {
  await tx.query(SQL, [String(idleMs), String(lockMs)]);
}
