import { Writable } from 'node:stream';
import { pino } from 'pino';
import { createClient, type Client, type Transport } from '@connectrpc/connect';
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from '@connectrpc/connect-node';
import { JobService as JobServiceDesc } from '../../gen/baton/v1/job_service_pb.js';
import type { Logger } from '../../src/base/log.js';
import type { CallReport } from '../../src/rpc/call.js';
import { startGrpcServer, type GrpcServerOptions } from '../../src/rpc/grpc.js';
import { Intake } from '../../src/rpc/intake.js';
import type { RpcServer } from '../../src/rpc/listener.js';
import { createHandlers } from '../../src/rpc/handlers.js';
import { startHttpServer, type HttpServerOptions } from '../../src/rpc/http.js';
import type { JobService, PipelineService } from '../../src/service/api.js';
import { fakeJobs, fakePipelines } from './rpc_fake.js';
import { GrpcJsClient } from './rpc_grpc_client.js';
import { waitFor, within as withinTime } from './wait.js';

/** `waitFor`, named first. */
export const until = (name: string, condition: () => boolean, promisedMs = 5000): Promise<void> =>
  waitFor(condition, name, promisedMs);

/** `within`, named first. */
export const within = <T>(name: string, promise: Promise<T>, promisedMs = 5000): Promise<T> =>
  withinTime(promise, name, promisedMs);

export interface Servers {
  readonly grpc: RpcServer;
  readonly http: RpcServer;
  readonly url: string;
  readonly logs: Record<string, unknown>[];
  readonly reports: CallReport[];
  readonly jobs: Record<string, Client<typeof JobServiceDesc>>;
  readonly grpcJs: GrpcJsClient;
  /** Ends everything; a test that leaves something open keeps the process alive and is found out by it. */
  [Symbol.asyncDispose](): Promise<void>;
}

export interface ServersOptions {
  readonly intake?: Intake;
  readonly jobs?: Partial<JobService>;
  readonly pipelines?: Partial<PipelineService>;
  readonly grpc?: Pick<GrpcServerOptions, 'drainTimeoutMs'>;
  readonly http?: Partial<
    Pick<HttpServerOptions, 'drainTimeoutMs' | 'protocolTimeoutMs' | 'ready' | 'routes' | 'gate'>
  >;
}

/** Both listeners over one fake service, and a client of every protocol. */
export async function startServers(options: ServersOptions = {}): Promise<Servers> {
  const logs: Record<string, unknown>[] = [];
  const reports: CallReport[] = [];
  const log = memoryLog(logs);
  const handlers = createHandlers(fakeJobs(options.jobs), fakePipelines(options.pipelines));
  const listen = { host: '127.0.0.1', port: 0 };
  const { intake = new Intake() } = options;
  const common = {
    handlers,
    listen,
    intake,
    log,
    onCall: (report: CallReport): void => void reports.push(report),
  };
  const grpc = await startGrpcServer({ ...common, ...options.grpc });
  const ready = (): Promise<{ ok: boolean; detail: string }> =>
    Promise.resolve({ ok: true, detail: 'ready' });
  const http = await startHttpServer({ ...common, ready, ...options.http });
  const url = `http://127.0.0.1:${http.port}`;
  const grpcJs = new GrpcJsClient(`127.0.0.1:${grpc.port}`);
  const close = async (): Promise<void> => {
    grpcJs.close();
    await Promise.all([grpc.close(), http.close()]);
  };
  return { grpc, http, url, logs, reports, jobs: clients(url), grpcJs, [Symbol.asyncDispose]: close };
}

function memoryLog(logs: Record<string, unknown>[]): Logger {
  const sink = new Writable({
    write(line: Buffer, _encoding, done) {
      logs.push(JSON.parse(line.toString()) as Record<string, unknown>);
      done();
    },
  });
  return pino({ level: 'debug' }, sink);
}

function clients(baseUrl: string): Record<string, Client<typeof JobServiceDesc>> {
  const transports: Record<string, Transport> = {
    // Node's client counts what it sends against its session memory, 10 MB by default, and then refuses answers.
    'grpc over connect': createGrpcTransport({ baseUrl, nodeOptions: { maxSessionMemory: 64 } }),
    'grpc-web': createGrpcWebTransport({ baseUrl, httpVersion: '1.1' }),
    'connect json': createConnectTransport({ baseUrl, httpVersion: '1.1', useBinaryFormat: false }),
    'connect binary': createConnectTransport({ baseUrl, httpVersion: '2', useBinaryFormat: true }),
  };
  return Object.fromEntries(
    Object.entries(transports).map(([name, transport]) => [name, createClient(JobServiceDesc, transport)]),
  );
}
