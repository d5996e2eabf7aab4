import { randomUUID } from 'node:crypto';
import { link, mkdir, readFile, readdir, truncate, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EmbeddedPostgresError, errorCode, pathError } from './errors.js';
import { isRunning, ownIdentity, type ProcessIdentity } from './process-identity.js';

/** A start that keeps losing the race for a claim to processes that die at once gives up after this many. */
const CLAIM_ATTEMPTS_MAX = 100;

export interface DirectoryLock {
  /** Frees the lock. Safe to call again. */
  release(): Promise<void>;
}

/**
 * Takes the lock that lets one process at a time use a directory, or fails at once when a live process
 * holds it.
 *
 * Node has no `flock`, and the usual "delete the stale lock file, then create mine" has a gap in which two
 * processes both delete and both create. So nothing that is in force is ever deleted. `lockDir` holds
 * numbered claims, each made with its content in one step (a hard link to a finished file, which fails if
 * the number is taken):
 *
 * 1. Read the highest claim. If its process lives, the directory is taken.
 * 2. Else link the next number. If somebody else was faster, go to 1.
 * 3. Look again: only the highest claim counts. A higher one means that ours was linked from an outdated
 *    view of the directory; remove ours and go to 1.
 * 4. Ours is the highest, so it holds, and the lower ones are removed.
 *
 * A holder that is killed leaves a claim whose process is dead; a holder that releases empties its claim.
 * Either way the highest number stays, so numbers only grow and an outdated view is always found out.
 *
 * @param lockDir directory of the claims; made if missing
 * @param subject what is locked, for the message of the error
 */
export async function acquireDirectoryLock(lockDir: string, subject: string): Promise<DirectoryLock> {
  const finished = join(lockDir, `.claim-${randomUUID()}`);
  try {
    await mkdir(lockDir, { recursive: true, mode: 0o755 });
    await writeFile(finished, JSON.stringify(await ownIdentity()), { mode: 0o644 });
    try {
      return await claim(lockDir, finished, subject);
    } finally {
      await unlink(finished);
    }
  } catch (error) {
    if (error instanceof EmbeddedPostgresError) throw error;
    throw pathError('create the lock', lockDir, error);
  }
}

async function claim(lockDir: string, finished: string, subject: string): Promise<DirectoryLock> {
  for (let attempt = 0; attempt < CLAIM_ATTEMPTS_MAX; attempt++) {
    const highest = Math.max(0, ...(await claimNumbers(lockDir)));
    const holder = await holderOf(join(lockDir, String(highest)));
    if (holder !== undefined) throw inUse(subject, holder);
    const mine = join(lockDir, String(highest + 1));
    if (!(await linkIfFree(finished, mine))) continue;
    if (!(await confirmClaim(lockDir, highest + 1))) continue;
    return { release: () => releaseClaim(mine) };
  }
  throw new EmbeddedPostgresError(
    `Cannot lock ${subject}: other processes keep taking and losing ${lockDir}.`,
  );
}

/**
 * Steps 3 and 4: whether this claim, which the caller has just made, is in force. Withdraws it if not. Exported
 * for the test, since the race that makes the difference is too rare to be provoked.
 */
export async function confirmClaim(lockDir: string, mine: number): Promise<boolean> {
  const numbers = await claimNumbers(lockDir);
  const outdated = numbers.some((number) => number > mine)
    ? [mine]
    : numbers.filter((number) => number < mine);
  await Promise.all(outdated.map((number) => removeIfPresent(join(lockDir, String(number)))));
  return !outdated.includes(mine);
}

async function claimNumbers(lockDir: string): Promise<number[]> {
  return (await readdir(lockDir)).filter((name) => /^[1-9]\d*$/.test(name)).map(Number);
}

/** The live process behind a claim; undefined when the claim is missing, released or its process is dead. */
async function holderOf(path: string): Promise<ProcessIdentity | undefined> {
  let holder: ProcessIdentity;
  try {
    const parsed: unknown = JSON.parse(await readFile(path, 'utf8'));
    if (!isIdentity(parsed)) return undefined;
    holder = parsed;
  } catch (error) {
    // Unreadable for lack of permission must not pass for free.
    if (error instanceof SyntaxError || errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  return (await isRunning(holder)) ? holder : undefined;
}

function isIdentity(value: unknown): value is ProcessIdentity {
  if (typeof value !== 'object' || value === null || !('pid' in value) || !('started' in value)) return false;
  return Number.isInteger(value.pid) && Number(value.pid) > 0 && typeof value.started === 'string';
}

function inUse(subject: string, holder: ProcessIdentity): EmbeddedPostgresError {
  const who = holder.pid === process.pid ? 'this process itself' : 'another server';
  return new EmbeddedPostgresError(
    `${subject} is in use by ${who} (process ${holder.pid}). Stop that one first, or give this one ` +
      'another data directory (BATON_DATA_DIR).',
  );
}

async function linkIfFree(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false;
    throw error;
  }
}

async function removeIfPresent(path: string): Promise<void> {
  try {
    await unlink(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}

/** The data directory may have been deleted while the server ran; then there is nothing to free. */
async function releaseClaim(path: string): Promise<void> {
  try {
    await truncate(path, 0);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}
