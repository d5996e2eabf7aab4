import { constants, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2';
import {
  Server,
  ServerCredentials,
  setLogger,
  type handleServerStreamingCall,
  type handleUnaryCall,
  type MethodDefinition,
  type ServerOptions,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { BatonError, canceledError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { truncate } from '../base/text.js';
import type { WatchStream } from '../service/api.js';
import { bindingsOf, type Binding, type StreamBinding, type UnaryBinding } from './bindings.js';
import { ServerCall, type Observer } from './call.js';
import { countsOf, type ConnectionCounts } from './connection_counts.js';
import { connectionLimit } from './connection_limit.js';
import { encode } from './encode.js';
import { deadlineError } from './framework_error.js';
import { http2ServersOf } from './grpc_http2.js';
import type { GrpcRegistry } from './grpc_services.js';
import { http2StreamOf, sendAll, Sink } from './grpc_stream.js';
import { interceptor, unpackLater, type PackedMessage } from './grpc_intercept.js';
import { toGrpcStatus } from './grpc_status.js';
import { statusOf } from './errors.js';
import { grpcHeaders } from './refusals.js';
import type { Handlers } from './handlers.js';
import { Intake, type Payload } from './intake.js';
import { RPC_LIMITS } from './limits.js';
import type { ListenAddress, RpcServer } from './listener.js';
import { StreamGuard } from './stream_guard.js';
import { Turns } from './turns.js';
import { OpenStream } from './watch_loop.js';

export interface GrpcServerOptions extends Observer {
  readonly handlers: Handlers;
  readonly listen: ListenAddress;
  /** Shared by all listeners of a server. Default one of its own. */
  readonly intake?: Intake;
  /** Plain text by default. */
  readonly credentials?: ServerCredentials;
  /** Registers further services, such as health and reflection, before the server listens. */
  readonly register?: (registry: GrpcRegistry) => void;
  readonly counts?: ConnectionCounts;
  /** Default `RPC_LIMITS.drainTimeoutMs`. */
  readonly drainTimeoutMs?: number;
}

/** Serves all RPCs over gRPC. Rejects when the address cannot be listened on. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<RpcServer> {
  const bindings = bindingsOf(options.handlers);
  const paths = new Set(bindings.map(({ name }) => `/${name}`));
  const intake = options.intake ?? new Intake();
  const intercept = interceptor(options.log, intake, (path) => paths.has(path));
  silence(options.log);
  const server = new Server({ ...SERVER_OPTIONS, interceptors: [intercept] });
  for (const binding of bindings) register(server, binding, options, intake);
  options.register?.(server);
  const port = await bind(server, options);
  const turns = new Turns();
  const counts = countsOf(options.counts, 'grpc');
  const guards = http2ServersOf(server).map((http2) => {
    http2.maxConnections = connectionLimit();
    http2.on('drop', counts.connectionRefused);
    return new StreamGuard(http2, { turns, counts, log: options.log, refusal, select });
  });
  const stop = (): void => guards.forEach((guard) => guard.stop());
  const close = (): Promise<void> => {
    server.forceShutdown();
    stop();
    return Promise.resolve();
  };
  const drainTimeoutMs = options.drainTimeoutMs ?? RPC_LIMITS.drainTimeoutMs;
  return { port, drain: () => drain(server, drainTimeoutMs).finally(stop), close };
}

/**
 * All that grpc-js reads of a request's headers; Baton itself reads none of its metadata. grpc-js would keep the others as
 * long as the call, a value of `-bin` in as many pieces as it has commas: 60,000 of a call, which takes a byte to repeat.
 */
const HEADERS_READ = [
  ...[':authority', ':method', ':path', 'host', 'content-type'],
  ...['grpc-timeout', 'grpc-encoding'],
];

function select(headers: IncomingHttpHeaders): IncomingHttpHeaders {
  const read = HEADERS_READ.filter((name) => headers[name] !== undefined);
  return Object.fromEntries(read.map((name) => [name, headers[name]]));
}

/** It would write lines of its own to stderr, with what a client has sent. */
function silence(log: Logger): void {
  const tell = (...words: unknown[]): void => log.debug({ text: truncate(words.join(' '), 1024) }, 'grpc-js');
  setLogger({ error: tell, info: tell, debug: tell });
}

/** grpc-js takes any rate of client pings, so clients may keep idle connections alive as they like. */
const SERVER_OPTIONS: ServerOptions = {
  'grpc.max_receive_message_length': LIMITS.messageBytes,
  'grpc.max_concurrent_streams': RPC_LIMITS.streamsPerConnection,
  // Off by default: without it the streams of a machine that lost its power live on for ever.
  'grpc.keepalive_time_ms': RPC_LIMITS.pingIntervalMs,
  'grpc.keepalive_timeout_ms': RPC_LIMITS.pingTimeoutMs,
};

function bind(server: Server, { listen, credentials }: GrpcServerOptions): Promise<number> {
  const host = listen.host.includes(':') ? `[${listen.host}]` : listen.host;
  return new Promise((resolve, reject) => {
    server.bindAsync(
      `${host}:${listen.port}`,
      credentials ?? ServerCredentials.createInsecure(),
      (error, port) => (error === null ? resolve(port) : reject(error)),
    );
  });
}

function drain(server: Server, timeoutMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      server.forceShutdown();
      resolve();
    }, timeoutMs);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** A claim that is made for a HEAD would reach nobody, so whatever is no POST is refused before it is served. */
function refusal({ ':method': method }: IncomingHttpHeaders): OutgoingHttpHeaders | undefined {
  if (method === 'POST') return undefined;
  const error = new BatonError(
    'NOT_IMPLEMENTED',
    `${truncate(method ?? '', 20)} is not allowed: gRPC uses POST`,
  );
  return { ...grpcHeaders(statusOf(error)), ':status': 405, allow: 'POST' };
}

/**
 * Requests reach the handlers as bytes and responses leave them as bytes: grpc-js calls it INTERNAL when its own
 * deserializer throws, and shared bytes of a stream must not be encoded again.
 */
function register(server: Server, binding: Binding, observer: Observer, intake: Intake): void {
  const definition: MethodDefinition<PackedMessage, Uint8Array> = {
    path: `/${binding.name}`,
    requestStream: false,
    responseStream: binding.kind === 'server_streaming',
    requestSerialize: ({ bytes }) => bytes,
    requestDeserialize: unpackLater,
    responseSerialize: asBuffer,
    responseDeserialize: (bytes) => bytes,
  };
  const handler =
    binding.kind === 'unary' ? unary(binding, observer, intake) : serverStreaming(binding, observer, intake);
  const implementation: UntypedServiceImplementation = { [binding.method.localName]: handler };
  server.addService({ [binding.method.localName]: definition }, implementation);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function unary(
  binding: UnaryBinding,
  observer: Observer,
  intake: Intake,
): handleUnaryCall<PackedMessage, Uint8Array> {
  const { input, output } = binding.method;
  return (grpcCall, callback) => {
    const call = new ServerCall(binding.name, 'grpc', observer);
    grpcCall.on('cancelled', () => call.cancel(() => goneReason(grpcCall.getDeadline())));
    const answer = call.run(async () => {
      const payload: Payload = { ...grpcCall.request, format: 'binary' };
      const answered = await intake.serve(input, payload, call.signal, (request) =>
        binding.invoke(request, call),
      );
      return encode(output, answered);
    });
    answer.then(
      (bytes) => {
        call.finish(0);
        if (call.hasUndelivered) watchDelivery(grpcCall, call);
        callback(null, bytes);
      },
      (error: unknown) => callback(toGrpcStatus(call.fail(error))),
    );
  };
}

/**
 * grpc-js does not tell what became of an answer: its `cancelled` comes after a good end too. The HTTP/2 stream below
 * knows.
 */
function watchDelivery(grpcCall: object, call: ServerCall): void {
  const stream = http2StreamOf(grpcCall);
  if (stream === undefined) return;
  if (stream.destroyed) call.undelivered();
  else
    stream.once('close', () => {
      if (stream.rstCode !== constants.NGHTTP2_NO_ERROR) call.undelivered();
    });
}

function serverStreaming(
  binding: StreamBinding,
  observer: Observer,
  intake: Intake,
): handleServerStreamingCall<PackedMessage, Uint8Array> {
  return (grpcCall) => {
    const call = new ServerCall(binding.name, 'grpc', observer);
    grpcCall.on('cancelled', () => call.cancel(() => goneReason(grpcCall.getDeadline())));
    const stopTimer = cancelAtDeadline(call, grpcCall.getDeadline());
    const sink = new Sink(grpcCall);
    // The service may give up on a reader while a write is blocked; a status is all that can still be queued then.
    call.signal.addEventListener('abort', () => sink.close());
    const open = async (): Promise<WatchStream> => {
      const payload: Payload = { ...grpcCall.request, format: 'binary' };
      return intake.serve(binding.method.input, payload, call.signal, (request) =>
        binding.open(request, call),
      );
    };
    const sent = sendAll(new OpenStream(open, call), sink, binding.frame);
    sent.finally(stopTimer).then(
      () => {
        call.finish(0);
        if (!grpcCall.cancelled) grpcCall.end();
      },
      (error: unknown) => {
        const status = toGrpcStatus(call.fail(error));
        if (!grpcCall.cancelled) grpcCall.emit('error', status);
      },
    );
  };
}

/**
 * Ends the service's side of a stream at its deadline. grpc-js has a timer too, but while a write is blocked its
 * status waits behind the data, and it reports no cancel before that is out.
 */
function cancelAtDeadline(call: ServerCall, deadline: Date | number): () => void {
  const remainingMs = Number(deadline) - Date.now();
  if (remainingMs > RPC_LIMITS.timerMs) return () => {};
  const timer = setTimeout(() => call.cancel(deadlineError), Math.max(remainingMs, 0));
  return () => clearTimeout(timer);
}

/** grpc-js tells of a deadline as of any other cancel. Its timer may be a little early. */
function goneReason(deadline: Date | number): BatonError {
  return Date.now() >= Number(deadline) - 2 ? deadlineError() : canceledError();
}
