import { Agent } from 'node:http';
import { createClient, type Client } from '@connectrpc/connect';
import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-node';
import {
  JobService,
  type WatchRunsRequest,
  type WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import { connectCalls } from '../support/chaos_calls.js';
import { GrpcJsClient } from '../support/rpc_grpc_client.js';
import type { ChaosServer } from '../support/chaos_servers.js';

export const PROTOCOLS = ['grpc', 'grpc-js', 'connect', 'connect-json', 'grpc-web'] as const;
export type Protocol = (typeof PROTOCOLS)[number];

/** One connection to one server for a stream. */
export interface Connection {
  watch(request: Partial<WatchRunsRequest>, signal: AbortSignal): AsyncIterable<WatchRunsResponse>;
  close(): void;
}

type Request = Parameters<Client<typeof JobService>['watchRuns']>[0];

function overHttp1(
  server: ChaosServer,
  protocol: 'connect' | 'connect-json' | 'grpc-web',
): { jobs: Client<typeof JobService>; close: () => void } {
  const agent = new Agent({ keepAlive: true });
  const options = { baseUrl: server.httpUrl, httpVersion: '1.1' as const, nodeOptions: { agent } };
  const transport =
    protocol === 'grpc-web'
      ? createGrpcWebTransport(options)
      : createConnectTransport({ ...options, useBinaryFormat: protocol === 'connect' });
  return { jobs: createClient(JobService, transport), close: () => agent.destroy() };
}

function overGrpcJs(server: ChaosServer): Connection {
  const client = new GrpcJsClient(server.grpcAddress);
  return {
    async *watch(request, signal) {
      const call = client.stream(JobService.method.watchRuns, request as never);
      const cancel = (): void => call.cancel();
      signal.addEventListener('abort', cancel, { once: true });
      try {
        for await (const message of call) yield message as WatchRunsResponse;
      } finally {
        signal.removeEventListener('abort', cancel);
        call.cancel();
      }
    },
    close: () => client.close(),
  };
}

export function connectStream(server: ChaosServer, protocol: Protocol): Connection {
  if (protocol === 'grpc-js') return overGrpcJs(server);
  const calls = protocol === 'grpc' ? connectCalls(server) : overHttp1(server, protocol);
  return {
    watch: (request, signal) => calls.jobs.watchRuns(request as Request, { signal }),
    close: () => calls.close(),
  };
}
