import { spawn } from 'node:child_process';
import { EmbeddedPostgresError } from './errors.js';

/** Of what a command prints, this many last characters are kept for error messages. */
const OUTPUT_CHARS_MAX = 8_192;

/** The operating-system user that PostgreSQL runs as. */
export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
  readonly name: string;
}

export interface CommandOptions {
  /** Whom the command runs as; absent: the user of this process. */
  readonly user?: ServerUser | undefined;
  readonly timeoutMs: number;
  /** Written to the command's standard input. */
  readonly input?: string;
  readonly signal?: AbortSignal | undefined;
}

export interface CommandResult {
  /** Exit code; null when a signal ended the command. */
  readonly code: number | null;
  /** The end of standard output and standard error together. */
  readonly output: string;
}

/**
 * The environment of everything that is started here. It is made from scratch: PGDATA, PGPORT and their kin
 * change what PostgreSQL's programs do, messages are searched for words in English, and a fixed time zone
 * saves initdb its search for the system's.
 */
export function commandEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'] ?? '/usr/bin:/bin', LC_ALL: 'C', TZ: 'UTC' };
}

/**
 * The spawn options that run a command as another user. With `uid` or `gid` given, Node itself drops the
 * supplementary groups of the parent before it changes user (libuv calls `setgroups(0, NULL)`), so no helper
 * such as setpriv is needed.
 */
export function asUser(user: ServerUser | undefined): { uid?: number; gid?: number } {
  return user === undefined ? {} : { uid: user.uid, gid: user.gid };
}

/**
 * Runs a short-lived command to its end, without a shell. It gets a process group of its own, which keeps the
 * terminal's Ctrl-C away from it and lets a timeout or an abort end its children too.
 *
 * Rejects when the command cannot be started (with the system's error), on timeout, and with the signal's
 * reason when it is aborted. A non-zero exit code is a result, not an error.
 */
export async function runCommand(
  file: string,
  args: readonly string[],
  { user, timeoutMs, input = '', signal }: CommandOptions,
): Promise<CommandResult> {
  signal?.throwIfAborted();
  const child = spawn(file, args, {
    ...asUser(user),
    cwd: '/',
    env: commandEnvironment(),
    detached: true,
    stdio: 'pipe',
  });
  let output = '';
  const collect = (chunk: string) => (output = (output + chunk).slice(-OUTPUT_CHARS_MAX));
  child.stdout.setEncoding('utf8').on('data', collect);
  child.stderr.setEncoding('utf8').on('data', collect);
  child.stdin.on('error', () => {}); // It may exit without having read its input.
  child.stdin.end(input);

  const killGroup = () => {
    try {
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
    } catch {
      // The group has ended by itself in the meantime.
    }
  };
  let timedOut = false;
  const timer = setTimeout(() => {
    timedOut = true;
    killGroup();
  }, timeoutMs);
  signal?.addEventListener('abort', killGroup, { once: true });
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', resolve);
    });
    signal?.throwIfAborted();
    if (timedOut) throw new EmbeddedPostgresError(`${file} was ended after ${timeoutMs} ms. ${output}`);
    return { code, output: output.trim() };
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', killGroup);
  }
}
