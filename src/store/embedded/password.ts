import { randomBytes } from 'node:crypto';
import { open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { ServerBinaries } from './binaries.js';
import { SUPERUSER } from './cluster.js';
import { runCommand } from './command.js';
import { EmbeddedPostgresError, errorCode, pathError } from './errors.js';
import type { ServerUser } from './command.js';

const PASSWORD_BYTES = 24;
/** The single-user server first replays what a crash left, like any other start. */
const RESET_TIMEOUT_MS = 120_000;

/** The stored password, or undefined when there is none. */
export async function readPassword(dataDir: string): Promise<string | undefined> {
  const path = passwordPath(dataDir);
  try {
    const password = (await readFile(path, 'utf8')).trim();
    return password === '' ? undefined : password;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw pathError('read the password in', path, error);
  }
}

/**
 * Makes a random password and stores it, readable by this process's user only. It is on disk before a cluster
 * is made with it: the other way round a crash in between would lock everybody out.
 */
export async function createPassword(dataDir: string): Promise<string> {
  const path = passwordPath(dataDir);
  const password = randomBytes(PASSWORD_BYTES).toString('hex');
  try {
    const file = await open(`${path}.new`, 'w', 0o600);
    try {
      await file.chmod(0o600); // a leftover keeps the mode it has
      await file.writeFile(`${password}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(`${path}.new`, path);
  } catch (error) {
    throw pathError('store the password in', path, error);
  }
  return password;
}

function passwordPath(dataDir: string): string {
  return join(dataDir, 'postgres.password');
}

/**
 * Gives the superuser a new password in a cluster that is not running, for when the file with the old one was
 * deleted. PostgreSQL's single-user mode asks for none; whoever may read the files owns the data anyway.
 */
export async function resetPassword(
  cluster: string,
  password: string,
  binaries: ServerBinaries,
  user: ServerUser | undefined,
  signal?: AbortSignal,
): Promise<void> {
  const { code, output } = await runCommand(binaries.postgres, ['--single', '-D', cluster, 'postgres'], {
    user,
    timeoutMs: RESET_TIMEOUT_MS,
    input: `ALTER ROLE ${SUPERUSER} PASSWORD '${password}'\n`,
    signal,
  });
  if (code !== 0 || /ERROR|FATAL/.test(output)) {
    throw new EmbeddedPostgresError(
      `The password of the database in ${cluster} could not be reset: ${output}`,
    );
  }
}
