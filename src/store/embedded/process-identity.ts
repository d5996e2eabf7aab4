import { execFile } from 'node:child_process';
import { readFile, readlink } from 'node:fs/promises';
import { basename } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/**
 * A process that cannot be mistaken for a later one with the same number: process ids are reused, a pair of
 * id and start time is not.
 */
export interface ProcessIdentity {
  readonly pid: number;
  /** Opaque; equal only for one and the same process. Empty when the system would not tell. */
  readonly started: string;
}

/** This process. */
export async function ownIdentity(): Promise<ProcessIdentity> {
  return { pid: process.pid, started: (await startOf(process.pid)) ?? '' };
}

/** The process that has this id now, or undefined when there is none (a zombie counts as none). */
export async function identify(pid: number): Promise<ProcessIdentity | undefined> {
  if (!pidExists(pid)) return undefined;
  const started = await startOf(pid);
  return started === undefined ? undefined : { pid, started };
}

/**
 * Whether exactly this process still runs. In doubt (start times hidden from this user) the answer is yes,
 * because the callers use a "no" to take something over.
 */
export async function isRunning(identity: ProcessIdentity): Promise<boolean> {
  const now = await identify(identity.pid);
  if (now === undefined) return false;
  return now.started === identity.started || now.started === '' || identity.started === '';
}

/** Whether any process has this id, also one of another user. */
export function pidExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** Start time of a process: undefined for a dead one, empty when it runs but the system hides it. */
async function startOf(pid: number): Promise<string | undefined> {
  return process.platform === 'linux' ? startFromProc(pid) : startFromPs(pid);
}

/** Ticks since boot alone would repeat after a reboot, so the boot's own id goes with them. */
async function startFromProc(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    // The second field is the command in parentheses and may itself hold spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    if (fields[0] === 'Z' || fields[0] === 'X') return undefined;
    const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    return `${bootId}/${fields[19] ?? ''}`;
  } catch {
    return pidExists(pid) ? '' : undefined;
  }
}

/** For systems without /proc (macOS). Exported so that it can be tested where /proc exists, too. */
export async function startFromPs(pid: number): Promise<string | undefined> {
  try {
    const env = { ...process.env, LC_ALL: 'C', TZ: 'UTC' };
    const { stdout } = await run('ps', ['-o', 'stat=', '-o', 'lstart=', '-p', String(pid)], { env });
    const [state = '', ...started] = stdout.trim().split(/\s+/);
    return state === '' || state.startsWith('Z') ? undefined : started.join(' ');
  } catch {
    return pidExists(pid) ? '' : undefined;
  }
}

/** Whether the process is a PostgreSQL server that works in `clusterDir` (a real path, no symbolic links). */
export async function isPostgresOf(pid: number, clusterDir: string): Promise<boolean> {
  if (process.platform !== 'linux') return isPostgresByCommand(pid, clusterDir);
  try {
    // A server changes into its data directory and stays there, however it was started. Links that may not
    // be read belong to another user's process, which is then not one that this user could have started.
    const [cwd, executable] = await Promise.all([readlink(`/proc/${pid}/cwd`), readlink(`/proc/${pid}/exe`)]);
    // The kernel appends " (deleted)" when the binary was replaced, for example by a new `npm ci`.
    return cwd === clusterDir && /^postgres( \(deleted\))?$/.test(basename(executable));
  } catch {
    return false;
  }
}

/** For systems without /proc: the postmaster's command line names the data directory it was started with. */
export async function isPostgresByCommand(pid: number, clusterDir: string): Promise<boolean> {
  try {
    const { stdout } = await run('ps', ['-ww', '-o', 'command=', '-p', String(pid)]);
    return /(^|\/)postgres\s/.test(stdout) && stdout.includes(` -D ${clusterDir} `);
  } catch {
    return false;
  }
}
