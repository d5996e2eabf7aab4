import { randomUUID } from 'node:crypto';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  open,
  readFile,
  readdir,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import type { Logger } from '../../base/log.js';
import type { ServerBinaries } from './binaries.js';
import { runCommand } from './command.js';
import { EmbeddedPostgresError, errorCode, pathError } from './errors.js';
import type { ServerUser } from './command.js';
import { canWriteIn } from './server-user.js';

/** initdb takes half a second on a local disk; a slow network disk gets its time. */
const INITDB_TIMEOUT_MS = 120_000;
/** An initdb that outlived its killed server may still write while its leftovers are removed. */
const REMOVE_RETRIES = 5;

/** The cluster's superuser, and the only role of a new one. */
export const SUPERUSER = 'baton';

/** Makes the data directory (mode 0755 if it is new, so that a server's user other than root can pass). */
export async function makeDataDir(dataDir: string): Promise<void> {
  try {
    const made = await mkdir(dataDir, { recursive: true });
    if (made !== undefined) await chmod(dataDir, 0o755);
  } catch (error) {
    throw pathError('make the data directory', dataDir, error);
  }
}

/**
 * Decides where the cluster is, and returns that place as a real path. Normally this is `<dataDir>/postgres`.
 * When PostgreSQL runs as another user who cannot get there, a new cluster goes to `<systemDir>/<id>/postgres`
 * and `<dataDir>/postgres` becomes a link to it. The modes of existing directories are never changed.
 */
export async function placeCluster(
  dataDir: string,
  user: ServerUser | undefined,
  systemDir: string,
  log: Logger,
): Promise<string> {
  const path = join(dataDir, 'postgres');
  const kind = await kindOf(path);
  if (kind === 'file') throw new EmbeddedPostgresError(`${path} is a file, not a PostgreSQL data directory.`);
  const place = kind === 'link' ? await followLink(path) : join(await realpath(dataDir), 'postgres');
  if (kind !== 'missing' || user === undefined) return place;
  if (await canReach(dataDir, user)) return place;
  return relocate(path, user, systemDir, log);
}

async function kindOf(path: string): Promise<'missing' | 'link' | 'directory' | 'file'> {
  try {
    const entry = await lstat(path);
    if (entry.isSymbolicLink()) return 'link';
    return entry.isDirectory() ? 'directory' : 'file';
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return 'missing';
    throw pathError('look at', path, error);
  }
}

/** The end of the link need not exist yet (a start that was killed before initdb), its directory must. */
async function followLink(path: string): Promise<string> {
  const target = resolve(dirname(path), await readlink(path));
  try {
    return join(await realpath(dirname(target)), basename(target));
  } catch (error) {
    throw new EmbeddedPostgresError(
      `${path} is a link to ${target}, which is not there: the data was removed or its disk is not mounted. ` +
        'Bring it back, or delete the link to start with an empty database.',
      { cause: error },
    );
  }
}

/** Tries it with a directory as the cluster would be: owned by the user, below the data directory. */
async function canReach(dataDir: string, user: ServerUser): Promise<boolean> {
  const probe = await mkdtemp(join(dataDir, 'postgres.new-'));
  try {
    await chown(probe, user.uid, user.gid);
    return await canWriteIn(probe, user);
  } catch (error) {
    if (errorCode(error) === 'EPERM') return false; // a file system without owners
    throw error;
  } finally {
    await rm(probe, { recursive: true, force: true });
  }
}

/** The link is made before the cluster, so that a start that is killed in between leaves nothing unknown. */
async function relocate(path: string, user: ServerUser, systemDir: string, log: Logger): Promise<string> {
  const home = join(systemDir, randomUUID());
  try {
    const made = await mkdir(systemDir, { recursive: true });
    if (made !== undefined) await chmod(systemDir, 0o755);
    await mkdir(home);
    await chmod(home, 0o755);
    // For whoever finds the directory later and asks what it belongs to.
    await writeFile(join(home, 'data-directory'), `${dirname(path)}\n`);
    await symlink(join(home, 'postgres'), path);
  } catch (error) {
    throw pathError('make a place for the database in', home, error);
  }
  log.warn(
    { data: join(home, 'postgres'), link: path },
    `The database is kept in ${home}, because PostgreSQL runs as user "${user.name}", who may not enter ` +
      `${dirname(path)}. To remove it, delete both.`,
  );
  return join(await realpath(home), 'postgres');
}

/**
 * Whether there is a complete cluster. Throws when something else is in its place, when another major version
 * of PostgreSQL made it, or when the server's user cannot enter it; nothing is changed in any case.
 */
export async function checkCluster(
  cluster: string,
  { version, majorVersion }: ServerBinaries,
  user: ServerUser | undefined,
): Promise<boolean> {
  const found = await readFile(join(cluster, 'PG_VERSION'), 'utf8').catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw pathError('read', join(cluster, 'PG_VERSION'), error);
  });
  if (found === undefined) return refuseOtherContent(cluster);
  if (found.trim() !== majorVersion) {
    throw new EmbeddedPostgresError(
      `The data in ${cluster} was made by PostgreSQL ${found.trim()}; this is PostgreSQL ${version}, which cannot ` +
        'read it. Nothing was changed. Move the data over with pg_dump and the old version, or choose another ' +
        'data directory (BATON_DATA_DIR).',
    );
  }
  if (user !== undefined && !(await canWriteIn(cluster, user))) {
    throw new EmbeddedPostgresError(
      `PostgreSQL runs as ${user.name}, who may not enter ${cluster} any more. Give that user access to the ` +
        'directories above it, or move it to a place with access and make the old path a link to it.',
    );
  }
  return true;
}

async function refuseOtherContent(cluster: string): Promise<false> {
  const content = await readdir(cluster).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return [];
    throw pathError('read', cluster, error);
  });
  if (content.length === 0) return false;
  throw new EmbeddedPostgresError(
    `${cluster} has content but is not a PostgreSQL data directory (no PG_VERSION). Move it away first.`,
  );
}

export interface CreateClusterOptions {
  readonly cluster: string;
  readonly binaries: ServerBinaries;
  readonly user: ServerUser | undefined;
  readonly password: string;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes a new cluster: UTF-8, sorted by code point, the same on every system and after every upgrade of its C
 * library; every connection needs the password.
 *
 * It is made in a temporary directory beside its place and renamed when it is complete, so a start that is
 * killed on the way never leaves half a cluster where a whole one is expected. What such starts left is
 * removed here; the caller holds the lock.
 */
export async function createCluster(options: CreateClusterOptions): Promise<void> {
  const { cluster } = options;
  await removeUnfinished(cluster);
  const unfinished = await makePrivateDir(`${cluster}.new-`, options.user);
  try {
    await runInitdb(unfinished, options);
    await rename(join(unfinished, 'data'), cluster);
    await syncDirectory(dirname(cluster));
  } finally {
    await removeQuietly(unfinished);
  }
}

async function removeUnfinished(cluster: string): Promise<void> {
  const prefix = `${basename(cluster)}.new-`;
  for (const name of await readdir(dirname(cluster))) {
    if (name.startsWith(prefix)) await removeQuietly(join(dirname(cluster), name));
  }
}

/** Leftovers only cost space, and the next start tries again: not being able to remove them stops nobody. */
async function removeQuietly(path: string): Promise<void> {
  await rm(path, { recursive: true, force: true, maxRetries: REMOVE_RETRIES }).catch(() => {});
}

/** PostgreSQL insists on a directory that only its user can enter; better to say so here than in its words. */
async function makePrivateDir(prefix: string, user: ServerUser | undefined): Promise<string> {
  try {
    const dir = await mkdtemp(prefix);
    if (user !== undefined) await chown(dir, user.uid, user.gid);
    const { mode, uid } = await stat(dir);
    if ((mode & 0o077) === 0 && uid === (user?.uid ?? process.getuid?.())) return dir;
    await removeQuietly(dir);
  } catch (error) {
    throw pathError('make a directory for the database in', dirname(prefix), error);
  }
  throw new EmbeddedPostgresError(
    `The file system of ${dirname(prefix)} does not keep owners and permissions, which PostgreSQL needs. Choose a ` +
      'data directory on another one (BATON_DATA_DIR).',
  );
}

async function runInitdb(unfinished: string, options: CreateClusterOptions): Promise<void> {
  const { binaries, user, signal } = options;
  // The server's user can read neither the data directory's password file nor, perhaps, the directory.
  const passwordFile = join(unfinished, 'password');
  await writeFile(passwordFile, `${options.password}\n`, { mode: 0o600, flag: 'wx' });
  if (user !== undefined) await chown(passwordFile, user.uid, user.gid);
  const { code, output } = await runCommand(
    binaries.initdb,
    [
      `--pgdata=${join(unfinished, 'data')}`,
      `--username=${SUPERUSER}`,
      `--pwfile=${passwordFile}`,
      '--auth=scram-sha-256',
      '--encoding=UTF8',
      '--locale=C',
      '--locale-provider=builtin',
      '--builtin-locale=C.UTF-8',
      '--no-instructions',
    ],
    { user, timeoutMs: INITDB_TIMEOUT_MS, signal },
  );
  if (code === 0) return;
  throw new EmbeddedPostgresError(`initdb could not make a database in ${options.cluster}: ${output}`);
}

/** Makes the rename itself survive a power failure. */
async function syncDirectory(dir: string): Promise<void> {
  const handle = await open(dir, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
