import type { Logger } from '../../base/log.js';
import { EmbeddedPostgresError, errorMessage } from './errors.js';
import { FAST_SHUTDOWN_TIMEOUT_MS, IMMEDIATE_SHUTDOWN_TIMEOUT_MS, readPidFile } from './postmaster.js';
import { identify, isPostgresOf, isRunning, pidExists, type ProcessIdentity } from './process-identity.js';
import { waitUntil } from './wait.js';

/**
 * Clears the way for a new server: when this process's predecessor was killed, its PostgreSQL runs on without
 * it. The caller holds the lock, so whatever server runs on the cluster has no living owner.
 *
 * The orphan is stopped, not adopted. It may run with another port, other settings or the binaries of an
 * older version, nothing tells a process that is not its parent how it ends, and a new start is a matter of
 * a fraction of a second.
 *
 * Only a process that works in this very directory as `postgres` is ever sent a signal. Any other that has
 * got the number in the meantime is left alone; its id is returned, for the new server to ignore.
 *
 * @param cluster real path of the cluster
 */
export async function stopOrphan(
  cluster: string,
  log: Logger,
  signal?: AbortSignal,
): Promise<number | undefined> {
  const pid = Number((await readPidFile(cluster))[0] ?? '');
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  const found = await identify(pid);
  // A dead process that nobody has waited for still has its number, and PostgreSQL takes it for alive.
  if (found === undefined) return pidExists(pid) ? pid : undefined;
  if (!(await isPostgresOf(pid, cluster))) return pid;
  log.warn({ pid, cluster }, 'a PostgreSQL whose Baton server has died is still running: stopping it');
  if (await ended(found, 'SIGINT', FAST_SHUTDOWN_TIMEOUT_MS, signal)) return undefined;
  if (await ended(found, 'SIGQUIT', IMMEDIATE_SHUTDOWN_TIMEOUT_MS, signal)) return undefined;
  throw new EmbeddedPostgresError(
    `A PostgreSQL from an earlier run (process ${pid}) still uses ${cluster} and does not end. Stop it first.`,
  );
}

async function ended(
  orphan: ProcessIdentity,
  shutdown: 'SIGINT' | 'SIGQUIT',
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  try {
    process.kill(orphan.pid, shutdown);
  } catch (error) {
    if (!(await isRunning(orphan))) return true;
    throw new EmbeddedPostgresError(
      `A PostgreSQL from an earlier run (process ${orphan.pid}) cannot be stopped: ${errorMessage(error)}.`,
      { cause: error },
    );
  }
  return waitUntil(async () => !(await isRunning(orphan)), timeoutMs, signal);
}
