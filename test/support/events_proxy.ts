import { once } from 'node:events';
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** A TCP proxy that loses connections: with a word to both sides, or without one. */
export interface HalfOpenProxy {
  readonly port: number;
  /** Connections that were made through it. */
  readonly connections: number;
  /** Sockets that are open now, on either side. */
  readonly open: number;
  /** What is open passes no byte from now on and is not closed; later connections work. */
  freeze(): void;
  /** Resets what is open. */
  cut(): void;
  close(): Promise<void>;
}

export async function startHalfOpenProxy(targetPort: number): Promise<HalfOpenProxy> {
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer((inner) => {
    connections += 1;
    const outer = connect(targetPort, '127.0.0.1');
    inner.pipe(outer).pipe(inner);
    for (const [socket, peer] of [
      [inner, outer],
      [outer, inner],
    ] as const) {
      sockets.add(socket);
      socket.on('error', () => socket.destroy());
      socket.on('close', () => {
        sockets.delete(socket);
        // `pipe` tells the other side of an end, and of a reset nothing.
        peer.destroySoon();
      });
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    get connections() {
      return connections;
    },
    get open() {
      return sockets.size;
    },
    freeze() {
      for (const socket of sockets) socket.unpipe().pause();
    },
    cut() {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, 'close');
    },
  };
}
