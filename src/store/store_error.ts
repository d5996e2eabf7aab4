import pg from 'pg';
import { BatonError } from '../base/errors.js';

/**
 * Classes 08 (connection), 57P (shutdown, crash, cannot connect now), 53 (no resources) and 40 (deadlock), a lock that
 * could not be had in time, a statement that was canceled for taking too long (57014), and a session that was ended
 * because its transaction stood still or took too long: the database could not do it now, which says nothing about the
 * request.
 */
const UNAVAILABLE_STATE = /^(08|57P|57014|53|40|55P03|25P03|25P04)/;
/**
 * What an operator causes and mends while a server runs: a changed password (28), a database that is gone (3D), rights
 * that were taken (42501), a schema that was dropped, restored in part or migrated by another version (3F000, 42P01,
 * 42883, 42703).
 */
const UNUSABLE_STATE = /^(28|3D|42501|3F000|42P01|42883|42703)/;
const UNAVAILABLE_CODE = /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EHOSTUNREACH|EAI_AGAIN|ENOENT)/;
/** Of the pool: those that there are were all in use, for the database or other calls are slow. */
const NONE_FREE_TEXT = /^timeout exceeded when trying to connect/;
const UNAVAILABLE_TEXT =
  /^(Connection terminated|Client has encountered a connection error|Query read timeout)/;
/** `read_only_sql_transaction`: the session leads to a standby, or the database was closed for writers. */
const READ_ONLY_STATE = '25006';

const RETRY_DELAY_MS = 1000;
/** For what is over with the session that it happened in. */
const RETRY_SOON_MS = 100;

const away = (cause: unknown, message: string, retryDelayMs = RETRY_DELAY_MS): BatonError =>
  new BatonError('DATABASE_UNAVAILABLE', message, { retryDelayMs, cause });

/** Turns the loss of the database into the error that tells a client to try again; other errors stay as they are. */
export function toStoreError(error: unknown): unknown {
  if (error instanceof BatonError || !(error instanceof Error)) return error;
  if (error instanceof pg.DatabaseError) return ofDatabase(error);
  if (NONE_FREE_TEXT.test(error.message))
    return away(error, 'no connection to the database came free in time');
  const { code } = error as { code?: unknown };
  const isLost =
    (typeof code === 'string' && UNAVAILABLE_CODE.test(code)) || UNAVAILABLE_TEXT.test(error.message);
  return isLost ? away(error, 'the database cannot be reached at the moment') : error;
}

function ofDatabase(error: pg.DatabaseError): unknown {
  const state = error.code ?? '';
  // A definition that was replaced between two looks of one statement; the next try meets the new one only.
  if (error.constraint === 'runs_status_of_pipeline')
    return away(error, 'the pipeline is being redefined at the moment', RETRY_SOON_MS);
  if (state === READ_ONLY_STATE) return readOnlyError(error);
  if (isOutdatedSession(error)) return away(error, 'a session of the database is out of date', RETRY_SOON_MS);
  if (UNUSABLE_STATE.test(state)) return away(error, 'the database cannot be used at the moment');
  return UNAVAILABLE_STATE.test(state) ? away(error, 'the database cannot be reached at the moment') : error;
}

export function readOnlyError(cause?: unknown): BatonError {
  return away(cause, 'the database is read-only at the moment');
}

/**
 * The session is not what the connection takes it for: what it answers was changed by a migration under a kept plan
 * (0A000), or behind a pooler it is another one, without the plan (26000) or with it already (42P05).
 */
function isOutdatedSession({ code, routine }: pg.DatabaseError): boolean {
  return code === '26000' || code === '42P05' || (code === '0A000' && routine === 'RevalidateCachedQuery');
}

/** Whether a session that has refused a statement with this is of no use any more, and others may be like it. */
export function spoilsSessions(error: unknown): boolean {
  return error instanceof pg.DatabaseError && (error.code === READ_ONLY_STATE || isOutdatedSession(error));
}
