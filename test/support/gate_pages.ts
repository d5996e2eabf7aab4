import { createServer, type Server } from 'node:http';
import { connect, createServer as createTcpServer, type AddressInfo, type Socket } from 'node:net';

/** One request that reached a server, and what it answered. */
export interface Exchange {
  /** `GET /v1/events`, without the query. */
  readonly what: string;
  readonly status: number;
  /** Headers of the request, names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
}

/** A port that passes all on to another one and keeps what was asked and answered: a browser shows no page that. */
export class Recorder {
  readonly exchanges: Exchange[] = [];
  readonly #sockets = new Set<Socket>();
  readonly #server = createTcpServer((client) => this.#pass(client));
  #target = 0;
  port = 0;

  async start(target: number, port = 0): Promise<this> {
    this.#target = target;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject).listen(port, '127.0.0.1', resolve);
    });
    this.port = (this.#server.address() as AddressInfo).port;
    return this;
  }

  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  #pass(client: Socket): void {
    const server = connect(this.#target, '127.0.0.1');
    const asked: Omit<Exchange, 'status'>[] = [];
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined).once('close', () => this.#sockets.delete(socket));
    }
    client.on('data', (chunk: Buffer) => asked.push(...requestsIn(chunk.toString('latin1'))));
    server.on('data', (chunk: Buffer) => {
      for (const [, status] of chunk.toString('latin1').matchAll(/^HTTP\/1\.1 ([2-5]\d\d) /gm)) {
        const request = asked.shift();
        if (request !== undefined) this.exchanges.push({ ...request, status: Number(status) });
      }
    });
    client.pipe(server);
    server.pipe(client);
  }
}

function requestsIn(text: string): Omit<Exchange, 'status'>[] {
  return [...text.matchAll(/^([A-Z]+) (\/[^ ?]*)\S* HTTP\/1\.1\r\n([\s\S]*?)\r\n\r\n/gm)].map(
    ([, method = '', path = '', head = '']) => ({
      what: `${method} ${path}`,
      headers: Object.fromEntries(
        head.split('\r\n').map((line) => {
          const colon = line.indexOf(':');
          return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
        }),
      ),
    }),
  );
}

/** A web server of somebody else: serves pages, and takes what they report. */
export class PageServer {
  readonly reports = new Map<string, unknown>();
  readonly #server: Server;
  port = 0;

  constructor(pages: Readonly<Record<string, () => string>>) {
    this.#server = createServer((request, response) => {
      const url = new URL(request.url ?? '/', 'http://localhost');
      let body = '';
      request.on('data', (chunk: Buffer) => (body += chunk.toString()));
      request.on('end', () => {
        if (url.pathname === '/report') this.reports.set(url.searchParams.get('of') ?? '', JSON.parse(body));
        const page = pages[url.pathname];
        response.statusCode = page === undefined ? 404 : 200;
        response.setHeader('content-type', 'text/html');
        response.end(page?.());
      });
    });
  }

  async start(port = 0): Promise<this> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject).listen(port, '127.0.0.1', resolve);
    });
    this.port = (this.#server.address() as AddressInfo).port;
    return this;
  }

  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.#server.close(resolve));
    this.#server.closeAllConnections();
    await closed;
  }
}
