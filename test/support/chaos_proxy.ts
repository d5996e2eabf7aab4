import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net';
import { NotificationFilter } from './chaos_notifications.js';

/**
 * What a proxy does to the bytes that come in now. A connection that has lost a byte stays silent for good, also when
 * the proxy is healed: half an answer helps nobody, and a network that forgot a connection does not say so either.
 */
export type ProxyMode =
  | 'pass'
  /** Nothing comes through in either direction, new connections are accepted, and nobody is told of an end. */
  | 'half-open'
  /** Requests arrive, answers do not. */
  | 'drop-to-client'
  /** Requests are lost; what the other side says by itself still arrives. */
  | 'drop-to-server'
  /** Everything arrives, `delayMs` later. */
  | 'delay'
  /** Notifications of PostgreSQL on the log's channel are taken out; all else passes, so the connection looks well. */
  | 'drop-notify';

export interface ProxyOptions {
  readonly host: string;
  readonly port: number;
  /** The port to listen on; any free one when absent. */
  readonly listenPort?: number;
  /** The channel whose notifications `drop-notify` takes out. */
  readonly channel?: string;
}

/** One connection through the proxy. */
interface Link {
  readonly client: Socket;
  readonly upstream: Socket;
  /** Bytes were lost: nothing may follow them. */
  dead: boolean;
}

/** A TCP proxy in front of a server that can break in the ways a network does. */
export class FaultProxy {
  readonly #options: ProxyOptions;
  readonly #server: Server;
  readonly #links = new Set<Link>();
  mode: ProxyMode = 'pass';
  delayMs = 0;
  /** Bytes that came through from the client to the server and back. */
  readonly bytes = { toServer: 0, toClient: 0 };
  notificationsDropped = 0;
  /** Bytes that were lost. */
  lostBytes = 0;
  /** Connections that were ever accepted. */
  accepted = 0;

  private constructor(options: ProxyOptions) {
    this.#options = options;
    // The end of one direction must not be answered by this side alone: a network that lost a connection does not.
    this.#server = createServer({ allowHalfOpen: true }, (client) => this.#accept(client));
  }

  static async start(options: ProxyOptions): Promise<FaultProxy> {
    const proxy = new FaultProxy(options);
    await new Promise<void>((resolve, reject) => {
      proxy.#server.once('error', reject);
      proxy.#server.listen(options.listenPort ?? 0, '127.0.0.1', resolve);
    });
    return proxy;
  }

  /** In front of the database of this URL, and the URL that goes through it. */
  static async before(databaseUrl: string): Promise<{ readonly proxy: FaultProxy; readonly url: string }> {
    const url = new URL(databaseUrl);
    const proxy = await FaultProxy.start({ host: url.hostname, port: Number(url.port) });
    url.port = String(proxy.port);
    return { proxy, url: url.toString() };
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get connections(): number {
    return this.#links.size;
  }

  /** Breaks every connection, so that both sides notice at once. */
  reset(): void {
    for (const link of this.#links) this.#break(link);
  }

  async close(): Promise<void> {
    this.reset();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #accept(client: Socket): void {
    this.accepted += 1;
    const upstream = connect(this.#options.port, this.#options.host);
    const link: Link = { client, upstream, dead: false };
    this.#links.add(link);
    this.#forward(link, client, upstream, 'toServer');
    this.#forward(link, upstream, client, 'toClient');
    // The server is told of the client's end, else sessions would pile up behind the proxy; nobody is told anything
    // over a connection that is half open.
    const onClientEnd = (): void => {
      if (!link.dead && this.mode !== 'half-open') this.#break(link);
      else upstream.destroy();
    };
    client.on('end', onClientEnd);
    client.on('error', () => this.#break(link)).on('close', () => this.#break(link));
    const onUpstreamEnd = (): void => {
      if (!link.dead && this.mode !== 'half-open') this.#break(link);
      else link.dead = true;
    };
    upstream.on('error', onUpstreamEnd).on('close', onUpstreamEnd);
  }

  #forward(link: Link, from: Socket, to: Socket, direction: 'toServer' | 'toClient'): void {
    const { channel } = this.#options;
    const filter =
      direction === 'toClient' && channel !== undefined ? new NotificationFilter(channel) : undefined;
    let before: Promise<void> | undefined;
    const write = (bytes: Buffer): void => {
      if (link.dead || to.destroyed) return;
      this.bytes[direction] += bytes.length;
      if (!to.write(bytes)) {
        from.pause();
        to.once('drain', () => from.resume());
      }
    };
    from.on('data', (chunk: Buffer) => {
      if (this.#drops(direction)) link.dead = true;
      if (link.dead) {
        this.lostBytes += chunk.length;
        return;
      }
      let bytes = chunk;
      if (filter !== undefined) {
        const passed = filter.pass(chunk, this.mode === 'drop-notify');
        this.notificationsDropped += passed.dropped;
        bytes = passed.bytes;
      }
      if (this.mode !== 'delay' && before === undefined) {
        write(bytes);
        return;
      }
      const due = performance.now() + (this.mode === 'delay' ? this.delayMs : 0);
      const mine: Promise<void> = (before ?? Promise.resolve())
        .then(() => untilTime(due))
        .then(() => {
          write(bytes);
          if (before === mine) before = undefined;
        });
      before = mine;
    });
  }

  #drops(direction: 'toServer' | 'toClient'): boolean {
    return (
      this.mode === 'half-open' ||
      (this.mode === 'drop-to-client' && direction === 'toClient') ||
      (this.mode === 'drop-to-server' && direction === 'toServer')
    );
  }

  #break(link: Link): void {
    if (!this.#links.delete(link)) return;
    link.client.destroy();
    link.upstream.destroy();
  }
}

function untilTime(due: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
}
