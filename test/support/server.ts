import { createClient, type Client } from '@connectrpc/connect';
import { createConnectTransport, createGrpcTransport } from '@connectrpc/connect-node';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import type { Clock } from '../../src/base/clock.js';
import type { Logger } from '../../src/base/log.js';
import { formatAddress, type ServeConfig } from '../../src/config.js';
import { startServer, type RunningServer } from '../../src/server.js';
import { silent } from './database.js';

export interface TestServer {
  readonly server: RunningServer;
  /** gRPC on the gRPC port. */
  readonly jobs: Client<typeof JobService>;
  readonly pipelines: Client<typeof PipelineService>;
  /** Connect JSON over HTTP/1.1, as curl speaks it. */
  readonly httpJobs: Client<typeof JobService>;
  readonly httpUrl: string;
  readonly grpcUrl: string;
  stop(): Promise<void>;
}

/** For a server to stop that waits for nobody: with the slack, still less than it would wait for calls in flight. */
export const STOP_MS = 900;

const LOOPBACK = { host: '127.0.0.1', port: 0 };

/** A whole server in this process, on a test's own database. */
export async function startTestServer(
  databaseUrl: string,
  settings: Partial<ServeConfig> = {},
  clock?: Clock,
  log: Logger = silent,
): Promise<TestServer> {
  const config: ServeConfig = {
    databaseUrl,
    listenUrl: undefined,
    listen: true,
    logRetentionMs: 0,
    runRetentionMs: 0,
    streamAgeMs: undefined,
    grpcListen: LOOPBACK,
    httpListen: LOOPBACK,
    httpHosts: [],
    httpOrigins: [],
    dataDir: '',
    poolConnections: 5,
    logLevel: 'silent',
    insecurePublicListen: false,
    ...settings,
  };
  const server = await startServer(config, log, new AbortController().signal, clock);
  const grpcUrl = `http://${formatAddress(server.grpc)}`;
  const httpUrl = `http://${formatAddress(server.http)}`;
  const grpc = createGrpcTransport({ baseUrl: grpcUrl });
  const http = createConnectTransport({ baseUrl: httpUrl, httpVersion: '1.1', useBinaryFormat: false });
  return {
    server,
    jobs: createClient(JobService, grpc),
    pipelines: createClient(PipelineService, grpc),
    httpJobs: createClient(JobService, http),
    httpUrl,
    grpcUrl,
    stop: () => server.stop(),
  };
}
