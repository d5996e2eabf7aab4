/**
 * The embedded PostgreSQL could not be started or stopped. The message is written for the person at the
 * terminal: it names the path, process or user concerned and what to do about it.
 */
export class EmbeddedPostgresError extends Error {
  override readonly name = 'EmbeddedPostgresError';
}

/** The way out that every "cannot run here" message ends with. */
export const USE_OWN_DATABASE =
  'Set DATABASE_URL to a PostgreSQL (15 or newer) of your own instead of the embedded one.';

/** The system's error code (`ENOENT`, `EACCES` …) of a thrown value, or undefined. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

export function errorMessage(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const PATH_PROBLEMS: Readonly<Record<string, string>> = {
  EACCES: 'permission denied',
  EPERM: 'the file system does not permit it',
  EROFS: 'the file system is read-only',
  ENOSPC: 'the disk is full',
  EDQUOT: 'the disk quota is used up',
  ENOTDIR: 'a part of the path is a file, not a directory',
  EEXIST: 'it is a file, not a directory',
  ELOOP: 'too many symbolic links',
  ENAMETOOLONG: 'the path is too long',
};

/** Turns a file-system error into one sentence: what was tried, on which path, as whom, and why it failed. */
export function pathError(action: string, path: string, error: unknown): EmbeddedPostgresError {
  const why = PATH_PROBLEMS[errorCode(error) ?? ''] ?? errorMessage(error);
  const uid = process.getuid?.();
  const who = uid === undefined ? '' : ` (as user id ${uid})`;
  return new EmbeddedPostgresError(`Cannot ${action} ${path}${who}: ${why}.`, { cause: error });
}
