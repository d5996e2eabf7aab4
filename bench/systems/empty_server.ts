/**
 * The limit of any server on grpc-js: takes the requests of JobService apart, does nothing, and answers with a run of
 * the usual size, put together anew for each call.
 */
import { create, fromBinary, toBinary, type DescMethodUnary, type Message } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { Server, ServerCredentials, type MethodDefinition } from '@grpc/grpc-js';
import {
  BatchCreateRunsResponseSchema,
  ClaimNextResponseSchema,
  ClaimSchema,
  CreateRunResponseSchema,
  JobService,
  UpdateStatusResponseSchema,
} from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService, PutPipelineResponseSchema } from '../../gen/baton/v1/pipeline_service_pb.js';
import { RunSchema, RunState } from '../../gen/baton/v1/run_pb.js';
import { encode } from '../../src/rpc/encode.js';
import { serve } from '../support/ipc.js';
import type { ServerPlace, ServerUse } from '../support/system.js';
import { NEW_RUN } from './baton_calls.js';

const now = timestampNow();
const run = create(RunSchema, {
  ...{ id: '01900000-0000-7000-8000-000000000000', ...NEW_RUN, stage: 'work', status: 'waiting' },
  ...{ state: RunState.PENDING, maxAttempts: 3, version: 1n, createTime: now, updateTime: now },
  concurrencyKey: NEW_RUN.repository,
});
const held = {
  ...run,
  status: 'working',
  state: RunState.ACTIVE,
  workerId: 'bench',
  attempt: 1,
  version: 2n,
};
const claim = create(ClaimSchema, {
  run: { ...held, leaseExpireTime: now, startTime: now },
  leaseToken: 'AAAAAAAAAAEBkAAAAAAAcACAAAAAAAAAAA',
  leaseExpireTime: now,
});

type Answer = () => Message;
const ANSWERS: readonly (readonly [DescMethodUnary, Answer])[] = [
  [JobService.method.createRun, () => create(CreateRunResponseSchema, { run })],
  [JobService.method.batchCreateRuns, () => create(BatchCreateRunsResponseSchema, {})],
  [JobService.method.claimNext, () => create(ClaimNextResponseSchema, { claims: [claim] })],
  [JobService.method.updateStatus, () => create(UpdateStatusResponseSchema, { run: held, claims: [claim] })],
  [PipelineService.method.putPipeline, () => create(PutPipelineResponseSchema, {})],
];

const server = new Server();
for (const [method, answer] of ANSWERS) {
  const definition: MethodDefinition<Message, Message> = {
    path: `/${method.parent.typeName}/${method.name}`,
    requestStream: false,
    responseStream: false,
    requestSerialize: (message) => Buffer.from(toBinary(method.input, message)),
    requestDeserialize: (bytes) => fromBinary(method.input, bytes),
    // As Baton encodes its answers: the limit must not be of a slower way to write the same bytes.
    responseSerialize: (message) => encode(method.output, message),
    responseDeserialize: (bytes) => fromBinary(method.output, bytes),
  };
  server.addService(
    { [method.localName]: definition },
    {
      [method.localName]: (_: unknown, callback: (error: null, message: Message) => void) =>
        callback(null, answer()),
    },
  );
}
const grpcPort = await new Promise<number>((resolve, reject) => {
  server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, port) =>
    error === null ? resolve(port) : reject(error),
  );
});

function use(): ServerUse {
  const { user, system } = process.cpuUsage();
  return { cpuMicros: user + system, rssBytes: process.memoryUsage().rss };
}

serve({ grpcPort } satisfies ServerPlace, use, () => server.forceShutdown());
