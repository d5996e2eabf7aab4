import { createHash, randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, copyFile, mkdir, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { EmbeddedPostgresError, errorCode } from './errors.js';

/** What a server needs at run time. Left out: static libraries, headers' helpers and build files. */
const NOT_NEEDED = /(\.a|^pkgconfig|^pgxs)$/;

/** A copy takes seconds; one that is unfinished after this long was left by a process that was killed. */
const ABANDONED_AFTER_MS = 3_600_000;

interface SourceFile {
  /** Below the `native` directory. */
  readonly path: string;
  readonly bytes: number;
  readonly executable: boolean;
}

/**
 * Copies the binaries to `<root>/postgresql-<version>-<hash>/native` and returns that directory. A copy of the
 * same content is used again, so all data directories share one of each version; the rename at the end keeps
 * anybody from seeing half of one. Where the file system can share blocks between files, no data is copied.
 *
 * @param root made if missing, open to all users for reading
 */
export async function copyBinaries(nativeDir: string, root: string): Promise<string> {
  await makeOpenDirectory(root);
  const files = await listFiles(nativeDir);
  const target = join(root, await copyName(nativeDir, files));
  if (!(await exists(target))) {
    await removeAbandoned(root);
    await copyAtomically(nativeDir, files, target);
  }
  await refuseForeign(target);
  return join(target, 'native');
}

/** Symbolic links are not listed: whoever uses the copy makes them from the package's own list. */
async function listFiles(dir: string, below = ''): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  for (const entry of await readdir(join(dir, below), { withFileTypes: true })) {
    if (NOT_NEEDED.test(entry.name)) continue;
    const path = join(below, entry.name);
    if (entry.isDirectory()) files.push(...(await listFiles(dir, path)));
    if (!entry.isFile()) continue;
    const { size, mode } = await stat(join(dir, path));
    files.push({ path, bytes: size, executable: (mode & 0o100) !== 0 || below === 'bin' });
  }
  return files;
}

/** The server's program and the sizes of all other files tell one build from another. */
async function copyName(nativeDir: string, files: readonly SourceFile[]): Promise<string> {
  const hash = createHash('sha256').update(await readFile(join(nativeDir, 'bin', 'postgres')));
  for (const { path, bytes } of files.toSorted((a, b) => (a.path < b.path ? -1 : 1))) {
    hash.update(`${path}\0${bytes}\0`);
  }
  return `postgresql-${await packageVersion(nativeDir)}-${hash.digest('hex').slice(0, 12)}`;
}

/** `18.4` from a package version such as `18.4.0-beta.17`; only a help for people who look at the name. */
async function packageVersion(nativeDir: string): Promise<string> {
  try {
    const manifest = await readFile(join(nativeDir, '..', 'package.json'), 'utf8');
    return /"version":\s*"(\d+\.\d+)/.exec(manifest)?.[1] ?? 'unknown';
  } catch {
    return 'unknown';
  }
}

async function copyAtomically(from: string, files: readonly SourceFile[], target: string): Promise<void> {
  const unfinished = `${target}.new-${randomUUID()}`;
  try {
    for (const { path, executable } of files) {
      const copy = join(unfinished, 'native', path);
      await makeOpenDirectory(dirname(copy));
      await copyFile(join(from, path), copy, constants.COPYFILE_FICLONE);
      // The source may have been installed under a umask that keeps the server's user out.
      await chmod(copy, executable ? 0o755 : 0o644);
    }
    await rename(unfinished, target);
  } catch (error) {
    await rm(unfinished, { recursive: true, force: true });
    // Another server may have finished the same copy first, and a rename does not replace it.
    if (!(await exists(target))) throw error;
  }
}

async function removeAbandoned(root: string): Promise<void> {
  for (const name of await readdir(root)) {
    if (!/^postgresql-.*\.new-/.test(name)) continue;
    const path = join(root, name);
    const { mtimeMs } = await stat(path);
    if (Date.now() - mtimeMs > ABANDONED_AFTER_MS) await rm(path, { recursive: true, force: true });
  }
}

/** Makes the directory and its parents. Those that exist already keep their modes, whatever they are. */
async function makeOpenDirectory(dir: string): Promise<void> {
  if (await exists(dir)) return;
  await makeOpenDirectory(dirname(dir));
  try {
    await mkdir(dir);
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return;
    throw error;
  }
  await chmod(dir, 0o755); // mkdir's own mode is subject to the umask
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** Programs that somebody else could have put or can change there must not be run, least of all by root. */
async function refuseForeign(dir: string): Promise<void> {
  const { uid, mode } = await stat(dir);
  if (uid === process.getuid?.() && (mode & 0o022) === 0) return;
  throw new EmbeddedPostgresError(`${dir} belongs to another user or can be written by others`);
}
