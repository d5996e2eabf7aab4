import { copyFile, open, rename, stat, truncate, type FileHandle } from 'node:fs/promises';
import { errorCode, pathError } from './errors.js';

/** The log and the one older part that is kept are each at most about this long. */
const LOG_BYTES_MAX = 8 * 1024 * 1024;
const LOG_CHECK_INTERVAL_MS = 60_000;
/** How much of the log's end an error message quotes. */
const QUOTED_LINES_MAX = 20;
const QUOTED_BYTES_MAX = 8_192;

/**
 * The file that PostgreSQL writes its log to. The server gets the open file and writes by itself: with a pipe
 * through this process, a crash of this process would lose what the server says after it, and a busy one
 * would hold the server up. Opened here, the file needs no rights of the server's user in its directory.
 */
export interface ServerLog {
  /** Descriptor for the server's standard output and error. */
  readonly fd: number;
  /** The present end of the log, in bytes. */
  mark(): Promise<number>;
  /** The last lines that were written since the mark. */
  tail(mark: number): Promise<string>;
  close(): Promise<void>;
}

/** Opens the log for one run of the server, after what earlier runs have written. */
export async function openServerLog(path: string): Promise<ServerLog> {
  let file: FileHandle;
  try {
    await limitServerLog(path);
    file = await openForAppend(path);
  } catch (error) {
    throw pathError('write the log', path, error);
  }
  // A failing check must not end the process; the next one may do better.
  const check = setInterval(() => void limitServerLog(path).catch(() => {}), LOG_CHECK_INTERVAL_MS);
  check.unref();
  return {
    fd: file.fd,
    mark: async () => (await file.stat()).size,
    tail: (mark) => readTail(path, mark),
    async close() {
      clearInterval(check);
      await file.close();
    },
  };
}

/** A log that an earlier start as root left cannot be opened by the directory's owner, but moved away. */
async function openForAppend(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'a', 0o600);
  } catch (error) {
    if (errorCode(error) !== 'EACCES') throw error;
    await rename(path, `${path}.1`);
    return open(path, 'a', 0o600);
  }
}

/**
 * Moves a log that has grown too long to `<path>.1`. It is copied and cut, not renamed: the server keeps
 * appending to the same open file. A line written in between may be lost.
 */
export async function limitServerLog(path: string, bytesMax = LOG_BYTES_MAX): Promise<void> {
  try {
    if ((await stat(path)).size <= bytesMax) return;
    await copyFile(path, `${path}.1`);
    await truncate(path, 0);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}

async function readTail(path: string, mark: number): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    const from = Math.max(size < mark ? 0 : mark, size - QUOTED_BYTES_MAX);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(QUOTED_BYTES_MAX), 0, QUOTED_BYTES_MAX, from);
    const lines = buffer.toString('utf8', 0, bytesRead).trimEnd().split('\n');
    return lines.slice(-QUOTED_LINES_MAX).join('\n');
  } finally {
    await file.close();
  }
}
