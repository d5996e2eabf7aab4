import pg from 'pg';
import { BatonError } from '../base/errors.js';

const CHECK_VIOLATION = '23514';

/** Whether a statement was refused by this named constraint; the triggers of the schema name theirs too. */
export function violates(error: unknown, constraint: string): boolean {
  return (
    error instanceof pg.DatabaseError && error.code === CHECK_VIOLATION && error.constraint === constraint
  );
}

/**
 * Throws the error of a statement, as one that asks to come again where a run was refused because its pipeline was deleted
 * between two looks of that statement: the next try does not find it.
 */
export function throwAsDeleted(error: unknown): never {
  if (!violates(error, 'runs_pipeline_exists')) throw error;
  throw new BatonError('DATABASE_UNAVAILABLE', 'the pipeline is being deleted at the moment', {
    retryDelayMs: 100,
    cause: error,
  });
}

/** What the database itself said, also where `toStoreError` has put it behind an error for the client. */
function databaseError(error: unknown): pg.DatabaseError | undefined {
  if (error instanceof pg.DatabaseError) return error;
  return error instanceof BatonError && error.cause instanceof pg.DatabaseError ? error.cause : undefined;
}

/** Whether somebody else's locks were in the way: deadlock, serialization failure, or a lock not had in time. */
export function isContention(error: unknown): boolean {
  return /^(40|55P03)/.test(databaseError(error)?.code ?? '');
}

/**
 * Whether a statement or transaction that failed with this error has certainly changed nothing. It has when the
 * database refused it, and when the service gave it up; when the connection was lost, or an administrator ended it
 * (class 57), it may have been committed.
 */
export function wasRolledBack(error: unknown): boolean {
  const refusal = databaseError(error);
  if (refusal !== undefined) return !(refusal.code ?? '').startsWith('57P');
  return error instanceof BatonError && error.reason !== 'DATABASE_UNAVAILABLE';
}
