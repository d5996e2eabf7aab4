import { createClient, type Client } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';

export type Jobs = Client<typeof JobService>;

const CALL_TIMEOUT_MS = 10_000;

/** Loopback only: a server that others can reach has TLS in front of it. `close` lets the process end. */
export function connect(server: string): { jobs: Jobs; close: () => void } {
  const baseUrl = `http://${server}`;
  const sessionManager = new Http2SessionManager(baseUrl);
  // A stream has no deadline; it says `timeoutMs: 0`.
  const transport = createGrpcTransport({ baseUrl, sessionManager, defaultTimeoutMs: CALL_TIMEOUT_MS });
  return { jobs: createClient(JobService, transport), close: () => sessionManager.abort() };
}
