import {
  createServer as createHttp1Server,
  type RequestListener,
  type Server as Http1Server,
} from 'node:http';
import { createServer as createHttp2Server, type Http2Server, type ServerHttp2Session } from 'node:http2';
import {
  createServer as createTcpServer,
  type AddressInfo,
  type Server as TcpServer,
  type Socket,
} from 'node:net';
import type { Observer } from './call.js';
import { createConnectHandler } from './connect.js';
import { countsOf, type ConnectionCounts } from './connection_counts.js';
import { connectionLimit } from './connection_limit.js';
import { Connections } from './connections.js';
import { createEventStreamHandler } from './event_stream.js';
import { admit, type GateRules } from './gate.js';
import type { GrpcRegistry } from './grpc_services.js';
import { watchHalfClose } from './half_close.js';
import type { Handlers } from './handlers.js';
import { RPC_LIMITS } from './limits.js';
import { Intake } from './intake.js';
import type { ListenAddress, RpcServer } from './listener.js';
import { pathOf, type NodeRequest, type NodeResponse } from './node_http.js';
import { PAGE_PATH, sendPage } from './page.js';
import { refuse } from './refusals.js';
import { resetsIn, sniff } from './sniff.js';
import { StreamGuard } from './stream_guard.js';
import { Turns } from './turns.js';

export interface HttpServerOptions extends Observer {
  readonly handlers: Handlers;
  readonly listen: ListenAddress;
  /** Names of this server and origins of pages that may use it; none by default. */
  readonly gate?: GateRules;
  /** Shared by all listeners of a server. Default one of its own. */
  readonly intake?: Intake;
  /** Whether this server can do its work now; `detail` is the body of /readyz. */
  readonly ready: () => Promise<{ readonly ok: boolean; readonly detail: string }>;
  /** Serves further paths: returns true when it has taken the request. Asked after everything that Baton itself serves. */
  readonly routes?: (request: NodeRequest, response: NodeResponse) => boolean;
  /** Registers further services, such as health and reflection, as with the gRPC server. */
  readonly register?: (registry: GrpcRegistry) => void;
  readonly counts?: ConnectionCounts;
  /** Default `RPC_LIMITS.drainTimeoutMs`. */
  readonly drainTimeoutMs?: number;
  /** Default `RPC_LIMITS.protocolTimeoutMs`. */
  readonly protocolTimeoutMs?: number;
}

/**
 * Serves all RPCs over Connect, gRPC-Web and gRPC, and the plain routes beside them, on one port that speaks HTTP/1.1
 * and HTTP/2 in cleartext. Rejects when the address cannot be listened on.
 */
export async function startHttpServer(options: HttpServerOptions): Promise<RpcServer> {
  const counts = countsOf(options.counts, 'http');
  const connections = new Connections(counts.connectionClosed);
  const turns = new Turns();
  const gate = options.gate ?? NO_NAMES;
  const dispatch = createDispatch(options);
  const onRequest = (request: NodeRequest, response: NodeResponse): void => {
    if (admit(gate, request, response)) dispatch(request, response);
  };
  const http1 = createHttp1((request, response) => {
    if (!track(connections, request, response)) return;
    watchHalfClose(request, response);
    turns.add(request.socket, () => {
      if (!request.socket.destroyed) onRequest(request, response);
    });
  });
  const http2 = createHttp2(onRequest, options);
  const guard = new StreamGuard(http2, { turns, counts, log: options.log });
  const handovers = new Turns(RPC_LIMITS.sessionsPerTurn);
  const tcp = createTcp((socket) => {
    connections.add(socket);
    sniff(socket, options.protocolTimeoutMs ?? RPC_LIMITS.protocolTimeoutMs, (version, seen) => {
      if (version === 'http2') {
        // Node's session takes these bytes in one go, and the guard would hear of them when all is done.
        if (resetsIn(seen) > RPC_LIMITS.resetsUnserved.burst) return guard.turnAway(socket);
        // Until then nobody hears what becomes of it.
        socket.on('error', noop);
        return void handovers.add(socket, () => acceptHttp2(http2, socket.off('error', noop), connections));
      }
      connections.setHttp1(socket);
      http1.emit('connection', socket);
    });
  });
  tcp.maxConnections = connectionLimit();
  tcp.on('drop', counts.connectionRefused);
  const port = await listen(tcp, options.listen);
  const stop = afterwards(http1, connections, guard);
  return {
    port,
    drain: () => drain(tcp, connections, options.drainTimeoutMs ?? RPC_LIMITS.drainTimeoutMs).finally(stop),
    close: () => drain(tcp, connections, 0).finally(stop),
  };
}

const NO_NAMES: GateRules = { hosts: new Set(), origins: new Set() };

const noop = (): void => {};

type OnRequest = (request: NodeRequest, response: NodeResponse) => void;

/**
 * Counts an HTTP/1.1 request as in flight until its response is over, and ends the connection after it when draining.
 * False when the connection is over.
 */
function track(connections: Connections, request: NodeRequest, response: NodeResponse): boolean {
  if (connections.draining) response.setHeader('connection', 'close');
  const end = connections.begin(request.socket);
  if (end !== undefined) response.once('close', end);
  return end !== undefined;
}

function createDispatch(options: HttpServerOptions): OnRequest {
  const intake = options.intake ?? new Intake();
  const connect = createConnectHandler(options.handlers, options, intake, options.register);
  const events = createEventStreamHandler(options.handlers, options);
  return (request, response) => {
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    const path = pathOf(request);
    if (connect(request, response) || events(request, response)) return;
    if (isRead && path === '/healthz') return sendText(response, 200, 'ok');
    if (isRead && path === '/readyz') return void sendReady(response, options);
    if (isRead && path === PAGE_PATH) return sendPage(response, request.method === 'HEAD');
    if (options.routes?.(request, response) === true) return;
    refuse(request, response, 404);
  };
}

async function sendReady(response: NodeResponse, { ready, log }: HttpServerOptions): Promise<void> {
  try {
    const { ok, detail } = await ready();
    sendText(response, ok ? 200 : 503, detail);
  } catch (error) {
    log.error({ err: error }, 'readiness check failed');
    sendText(response, 503, 'not ready');
  }
}

function sendText(response: NodeResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', 'cache-control': 'no-store' });
  response.end(`${text}\n`);
}

function createTcp(onConnection: (socket: Socket) => void): TcpServer {
  // As `http.Server` does: a client may close its side after the request and still read the answer.
  return createTcpServer(
    { allowHalfOpen: true, noDelay: true, keepAlive: true, keepAliveInitialDelay: RPC_LIMITS.pingIntervalMs },
    onConnection,
  );
}

/** These timeouts bound how long a request may take to arrive; an answer may take as long as it likes. */
function createHttp1(onRequest: RequestListener): Http1Server {
  const server = createHttp1Server(
    {
      headersTimeout: RPC_LIMITS.headersTimeoutMs,
      requestTimeout: RPC_LIMITS.requestTimeoutMs,
      keepAliveTimeout: RPC_LIMITS.keepAliveTimeoutMs,
      // The gate refuses such a request, with a message.
      requireHostHeader: false,
    },
    onRequest,
  );
  // Without it an answer that is not there yet is dropped when the client closes its side, see `watchHalfClose`.
  Object.assign(server, { httpAllowHalfOpen: true });
  // A server that never listens itself starts the check of its timeouts with this event only.
  server.emit('listening');
  return server;
}

function createHttp2(onRequest: OnRequest, { log }: HttpServerOptions): Http2Server {
  const server = createHttp2Server(
    {
      settings: { maxConcurrentStreams: RPC_LIMITS.streamsPerConnection },
      maxSessionMemory: SESSION_MEMORY_MB,
    },
    onRequest,
  );
  server.on('sessionError', (error) => log.debug({ err: error }, 'HTTP/2 session failed'));
  return server;
}

/** Node makes the session while it takes the connection over, and tells the raw socket to nobody later on. */
function acceptHttp2(server: Http2Server, socket: Socket, connections: Connections): void {
  if (socket.destroyed) return;
  // A session is over when either side is, but nothing in it ends the socket that the client has ended.
  socket.allowHalfOpen = false;
  const onSession = (session: ServerHttp2Session): void => connections.setSession(socket, session);
  server.once('session', onSession);
  server.emit('connection', socket);
  server.off('session', onSession);
}

/** Node refuses new streams once a session holds more; its default of 10 MB is little for thousands of streams. */
const SESSION_MEMORY_MB = 256;

function listen(server: TcpServer, { host, port }: ListenAddress): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host, port }, () => {
      server.off('error', reject);
      resolve((server.address() as AddressInfo).port);
    });
  });
}

async function drain(tcp: TcpServer, connections: Connections, timeoutMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => tcp.close(() => resolve()));
  const timer = setTimeout(() => connections.destroyAll(), timeoutMs);
  await Promise.all([closed, connections.drain()]);
  clearTimeout(timer);
}

/** Starts what runs beside the connections; the function it returns stops that. */
function afterwards(http1: Http1Server, connections: Connections, guard: StreamGuard): () => void {
  const pings = setInterval(() => connections.ping(), RPC_LIMITS.pingIntervalMs);
  return () => {
    clearInterval(pings);
    guard.stop();
    // Never listened, so this only ends the check of timeouts.
    http1.close();
  };
}
