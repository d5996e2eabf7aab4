import { randomInt } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { EmbeddedPostgresError, errorCode, pathError } from './errors.js';

export const LOOPBACK = '127.0.0.1';

/**
 * A port is remembered and should be free next time. So it is taken from below the range that systems use for
 * the near end of outgoing connections (Linux from 32768, others from 49152), which would occupy it at random.
 */
const PORT_MIN = 15_432;
const PORT_MAX = 32_000;
const PORT_TRIES_MAX = 50;

/**
 * The port that this data directory used last if it is free, else a random free one. Somebody else can still
 * take it before PostgreSQL does, so the caller must be ready to ask again.
 */
export async function choosePort(dataDir: string): Promise<number> {
  const remembered = await readPort(portPath(dataDir));
  if (remembered !== undefined && (await isFree(remembered))) return remembered;
  for (let attempt = 0; attempt < PORT_TRIES_MAX; attempt++) {
    const port = randomInt(PORT_MIN, PORT_MAX);
    if (await isFree(port)) return port;
  }
  throw new EmbeddedPostgresError(
    `No free port found on ${LOOPBACK} between ${PORT_MIN} and ${PORT_MAX} in ${PORT_TRIES_MAX} tries.`,
  );
}

/** Remembers the port for the next start, so that a connection URL that somebody copied stays valid. */
export async function rememberPort(dataDir: string, port: number): Promise<void> {
  const path = portPath(dataDir);
  try {
    if ((await readPort(path)) === port) return;
    await writeFile(`${path}.new`, `${port}\n`);
    await rename(`${path}.new`, path);
  } catch (error) {
    throw pathError('store the port in', path, error);
  }
}

function portPath(dataDir: string): string {
  return join(dataDir, 'postgres.port');
}

/** A file with anything but a port in it counts as missing: it only holds a preference. */
async function readPort(path: string): Promise<number | undefined> {
  try {
    const port = Number((await readFile(path, 'utf8')).trim());
    return Number.isInteger(port) && port >= 1_024 && port <= 65_535 ? port : undefined;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw pathError('read', path, error);
  }
}

/** Whether somebody could listen on this port of the loopback address now. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ port, host: LOOPBACK, exclusive: true }, resolve);
    });
    await new Promise<void>((resolve) => server.close(() => resolve()));
    return true;
  } catch {
    return false;
  }
}
