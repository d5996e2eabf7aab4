import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import { RPC_LIMITS } from './limits.js';

/** What a connection has shown to be so far, and how many requests on it have not been answered. */
interface Connection {
  session: ServerHttp2Session | undefined;
  isHttp1: boolean;
  active: number;
}

/**
 * All connections of the HTTP listener. Node's servers each know a part of them only: those that speak no protocol
 * yet belong to nobody, and an HTTP/2 server does not close its sessions.
 */
export class Connections {
  readonly #open = new Map<Socket, Connection>();
  readonly #unanswered = new Set<ServerHttp2Session>();
  #draining = false;
  readonly #onEmpty: (() => void)[] = [];

  readonly #onClosed: () => void;

  /** @param onClosed told when a connection is closed because of what it sends */
  constructor(onClosed: () => void) {
    this.#onClosed = onClosed;
  }

  get draining(): boolean {
    return this.#draining;
  }

  add(socket: Socket): void {
    this.#open.set(socket, { session: undefined, isHttp1: false, active: 0 });
    socket.once('close', () => {
      this.#open.delete(socket);
      if (this.#open.size === 0) this.#onEmpty.splice(0).forEach((resolve) => resolve());
    });
  }

  setHttp1(socket: Socket): void {
    const connection = this.#open.get(socket);
    if (connection !== undefined) connection.isHttp1 = true;
  }

  setSession(socket: Socket, session: ServerHttp2Session): void {
    const connection = this.#open.get(socket);
    if (connection !== undefined) connection.session = session;
    session.once('close', () => this.#unanswered.delete(session));
    if (this.#draining) session.close();
  }

  /**
   * A request has begun on this socket of HTTP/1.1. Returns what to call once its response is over, or undefined after
   * too many at once: the connection is over then.
   */
  begin(socket: Socket): (() => void) | undefined {
    const connection = this.#open.get(socket);
    if (connection === undefined) return undefined;
    connection.active++;
    if (connection.active > RPC_LIMITS.requestsPipelined) {
      if (!socket.destroyed) this.#onClosed();
      socket.destroy();
      return undefined;
    }
    return () => {
      connection.active--;
      if (this.#draining && connection.isHttp1 && connection.active === 0) socket.end();
    };
  }

  /**
   * Lets go of every connection that has nothing in flight, tells the others that no new request is welcome (GOAWAY;
   * HTTP/1.1 hears it from the response), and resolves when all are gone.
   */
  drain(): Promise<void> {
    this.#draining = true;
    if (this.#open.size === 0) return Promise.resolve();
    for (const [socket, { session, active }] of this.#open) {
      if (isStranded(socket)) destroy(socket, session);
      else if (session !== undefined) session.close();
      else if (active === 0) socket.destroy();
    }
    return new Promise((resolve) => this.#onEmpty.push(resolve));
  }

  destroyAll(): void {
    for (const [socket, { session }] of this.#open) {
      destroy(socket, session);
    }
  }

  /** Pings every HTTP/2 session, and destroys those that have not answered the ping before. */
  ping(): void {
    for (const [socket, { session }] of this.#open) {
      if (isStranded(socket)) destroy(socket, session);
      if (session === undefined || session.closed || session.destroyed) continue;
      if (this.#unanswered.has(session)) {
        session.destroy();
        continue;
      }
      this.#unanswered.add(session);
      session.ping((error) => {
        if (error === null) this.#unanswered.delete(session);
      });
    }
  }
}

/**
 * Whether the client is gone and nothing says so any more: a session that was closed by a GOAWAY while its connection broke
 * off may wait for an end that has passed. It would hold up a stop for all of its time.
 */
function isStranded(socket: Socket): boolean {
  return socket.remotePort === undefined;
}

function destroy(socket: Socket, session: ServerHttp2Session | undefined): void {
  session?.destroy();
  socket.destroy();
}
