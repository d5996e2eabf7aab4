import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

/**
 * Free ports, all different. Servers that are killed and started again have to keep theirs, so they are from below what
 * systems give to whoever asks for any port, and below those of embedded PostgreSQL: else another test may be given one
 * meanwhile.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = randomInt(10_000, 15_400);
    if (await isFree(port)) ports.add(port);
  }
  return [...ports];
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const free = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true));
  });
  if (free) await new Promise((resolve) => server.close(resolve));
  return free;
}
