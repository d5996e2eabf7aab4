import pg from 'pg';
import { BatonError } from '../base/errors.js';

/**
 * Classes 08 (connection), 57P (shutdown, crash, cannot connect now), 53 (no resources) and 40 (deadlock), a lock that
 * could not be had in time, a statement that was canceled for taking too long (57014), and a session that was ended
 * because its transaction stood still: the database could not do it now, which says nothing about the request.
 */
const UNAVAILABLE_STATE = /^(08|57P|57014|53|40|55P03|25P03)/;
const UNAVAILABLE_CODE = /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EHOSTUNREACH|EAI_AGAIN|ENOENT)/;
const UNAVAILABLE_TEXT =
  /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error|Query read timeout)/;

/** Turns the loss of the database into the error that tells a client to try again; other errors stay as they are. */
export function toStoreError(error: unknown): unknown {
  if (error instanceof BatonError || !(error instanceof Error)) return error;
  const code = (error as { code?: unknown }).code;
  const unavailable =
    (typeof code === 'string' &&
      (error instanceof pg.DatabaseError ? UNAVAILABLE_STATE.test(code) : UNAVAILABLE_CODE.test(code))) ||
    UNAVAILABLE_TEXT.test(error.message);
  // A definition that was replaced between two looks of one statement; the next try meets the new one only.
  const redefined = error instanceof pg.DatabaseError && error.constraint === 'runs_status_of_pipeline';
  if (redefined) {
    return new BatonError('DATABASE_UNAVAILABLE', 'the pipeline is being redefined at the moment', {
      retryDelayMs: 100,
      cause: error,
    });
  }
  if (!unavailable) return error;
  return new BatonError('DATABASE_UNAVAILABLE', 'the database cannot be reached at the moment', {
    retryDelayMs: 1000,
    cause: error,
  });
}
