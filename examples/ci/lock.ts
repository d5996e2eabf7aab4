import { readFile, rm, writeFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

const LOOK_MS = 200;

/**
 * Does something while no other process does the same: the one that makes the file does it. The file of a process that
 * has ended counts for nothing.
 *
 * @throws the reason of `signal`, which also ends the wait
 */
export async function locked(file: string, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  while (!(await make(file))) {
    if (!(await isHeld(file))) await rm(file, { force: true });
    else await delay(LOOK_MS, undefined, { signal });
  }
  try {
    await work();
  } finally {
    await rm(file, { force: true });
  }
}

async function make(file: string): Promise<boolean> {
  try {
    await writeFile(file, String(process.pid), { flag: 'wx' });
    return true;
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false;
    throw error;
  }
}

async function isHeld(file: string): Promise<boolean> {
  const text = await readFile(file, 'utf8').catch(() => undefined);
  // Made this moment and not written yet, or just removed: look again.
  if (text === undefined || text === '') return true;
  try {
    process.kill(Number(text), 0);
    return true;
  } catch {
    return false;
  }
}
