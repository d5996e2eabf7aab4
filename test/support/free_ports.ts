import { randomInt } from 'node:crypto';
import { isFree } from '../../src/store/embedded/port.js';

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
