import { connect, createServer, type AddressInfo } from 'node:net';

/** A type, and a length of twelve bytes: what tells a session the process of its backend, and a key. */
const BACKEND_KEY_DATA = Buffer.from([0x4b, 0, 0, 0, 12]);

/**
 * A way to the database on which sessions are told processes that are not those of their backends, as a pooler does.
 */
export async function startFalseProcessIds(
  databaseUrl: string,
): Promise<{ readonly url: string; close(): Promise<void> }> {
  const url = new URL(databaseUrl);
  const upstreamPort = Number(url.port);
  let sessions = 0;
  const server = createServer((client) => {
    const upstream = connect(upstreamPort, '127.0.0.1');
    const processId = 1_000_000_000 + sessions;
    sessions += 1;
    client.pipe(upstream);
    let isTold = false;
    upstream.on('data', (chunk: Buffer) => {
      const at = isTold ? -1 : chunk.indexOf(BACKEND_KEY_DATA);
      if (at >= 0) {
        isTold = true;
        chunk.writeUInt32BE(processId, at + BACKEND_KEY_DATA.length);
      }
      client.write(chunk);
    });
    upstream.on('close', () => client.destroy()).on('error', () => client.destroy());
    client.on('close', () => upstream.destroy()).on('error', () => upstream.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url.port = String((server.address() as AddressInfo).port);
  const close = (): Promise<void> => new Promise((resolve) => server.close(() => resolve()));
  return { url: url.toString(), close };
}
