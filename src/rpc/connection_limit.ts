import { readFileSync } from 'node:fs';
import { RPC_LIMITS } from './limits.js';

/** Files that are none of its listeners' connections: the database, the log, the program itself. */
const OTHER_FILES = 200;

/**
 * How many connections a listener may have open: `RPC_LIMITS.connections`, or half of the files that this process may have
 * open, so that beyond it a connection is refused and counted. Without files nothing can even be refused.
 */
export function connectionLimit(limits: string = readLimits()): number {
  const files = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  if (files === undefined) return RPC_LIMITS.connections;
  return Math.max(1, Math.min(RPC_LIMITS.connections, Math.floor((Number(files) - OTHER_FILES) / 2)));
}

/** As Linux tells them, or nothing. */
function readLimits(): string {
  try {
    return readFileSync('/proc/self/limits', 'utf8');
  } catch {
    return '';
  }
}
