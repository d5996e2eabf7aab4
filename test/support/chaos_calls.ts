import { createClient, type Client } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';

/** One connection for unary calls to one address. */
export interface CallConnection {
  readonly jobs: Client<typeof JobService>;
  readonly pipelines: Client<typeof PipelineService>;
  close(): void;
}

export function connectCalls({ grpcAddress }: { readonly grpcAddress: string }): CallConnection {
  const baseUrl = `http://${grpcAddress}`;
  // Without PING: whoever uses this gives up a silent connection by itself.
  const sessionManager = new Http2SessionManager(baseUrl);
  const transport = createGrpcTransport({ baseUrl, sessionManager });
  return {
    jobs: createClient(JobService, transport),
    pipelines: createClient(PipelineService, transport),
    close: () => sessionManager.abort(),
  };
}
