/** The calls that the benchmarks make of Baton, as a worker in another process makes them: by gRPC, with grpc-js. */
import { create, fromBinary, type MessageInitShape } from '@bufbuild/protobuf';
import {
  BatchCreateRunsRequestSchema,
  BatchUpdateStatusRequestSchema,
  BatchUpdateStatusResponseSchema,
  ClaimNextRequestSchema,
  ClaimNextResponseSchema,
  CreateRunRequestSchema,
  JobService,
  UpdateStatusRequestSchema,
  UpdateStatusResponseSchema,
  type Claim,
  type CreateRunRequest,
} from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { encode } from '../../src/rpc/encode.js';
import { GrpcJsClient } from '../../test/support/rpc_grpc_client.js';

/** One stage, like the queues of the peers, and leases that outlast every measurement. */
export const PIPELINE = {
  name: 'bench',
  initialStatus: 'waiting',
  errorStatus: 'failed',
  canceledStatus: 'canceled',
  stages: [
    {
      ...{ name: 'work', waitingStatus: 'waiting', processingStatus: 'working', doneStatus: 'done' },
      leaseDuration: { seconds: 3600n },
    },
  ],
};

/** A small run. The peers get as much to keep. */
export const NEW_RUN = {
  pipeline: 'bench',
  repository: 'github.com/acme/shop',
  labels: { team: 'a' },
  input: { n: 1 },
} as const;

const path = (method: { parent: { typeName: string }; name: string }): string =>
  `/${method.parent.typeName}/${method.name}`;
const CREATE = path(JobService.method.createRun);
const BATCH_CREATE = path(JobService.method.batchCreateRuns);
const CLAIM = path(JobService.method.claimNext);
const BATCH_UPDATE = path(JobService.method.batchUpdateStatus);
const UPDATE = path(JobService.method.updateStatus);

// The peers' payloads are objects that are made once and serialized each time; so are these.
const newRun = create(CreateRunRequestSchema, NEW_RUN);
const newRunBytes = encode(CreateRunRequestSchema, newRun);
const encodeRun = (repository: string): Uint8Array => {
  const run: CreateRunRequest = { ...newRun, repository };
  return encode(CreateRunRequestSchema, run);
};
const claimNext = { pipeline: 'bench', stage: 'work', workerId: 'bench' };

/**
 * One client, on a connection of its own as grpc-js makes it. Requests are encoded as the server encodes its answers, and
 * answers are only taken apart where a worker needs what is in them: the less the client costs, the more of the machine
 * the server shows.
 */
export class BatonCalls {
  readonly #client: GrpcJsClient;

  constructor(grpcPort: number) {
    this.#client = new GrpcJsClient(`127.0.0.1:${grpcPort}`);
  }

  close(): void {
    this.#client.close();
  }

  async putPipeline(): Promise<void> {
    await this.#client.unary(PipelineService.method.putPipeline, { pipeline: PIPELINE });
  }

  /** @param repository instead of the usual one, to know the run again */
  async createRun(repository?: string): Promise<void> {
    const other = repository === undefined ? newRunBytes : encodeRun(repository);
    await this.#client.raw(CREATE, other);
  }

  async batchCreateRuns(runs: number): Promise<void> {
    const request = create(BatchCreateRunsRequestSchema, {
      requests: Array.from({ length: runs }, () => newRun),
    });
    await this.#client.raw(BATCH_CREATE, encode(BatchCreateRunsRequestSchema, request));
  }

  async claimNext(how: MessageInitShape<typeof ClaimNextRequestSchema> = {}): Promise<readonly Claim[]> {
    const request = create(ClaimNextRequestSchema, { ...claimNext, ...how });
    const answer = await this.#client.raw(CLAIM, encode(ClaimNextRequestSchema, request));
    return fromBinary(ClaimNextResponseSchema, answer).claims;
  }

  async complete({ run, leaseToken }: Claim): Promise<void> {
    const request = create(UpdateStatusRequestSchema, { runId: run?.id ?? '', leaseToken, status: 'done' });
    await this.#client.raw(UPDATE, encode(UpdateStatusRequestSchema, request));
  }

  /** Fails when one of them was refused. */
  async completeAll(claims: readonly Claim[]): Promise<void> {
    const requests = claims.map(({ run, leaseToken }) => ({
      runId: run?.id ?? '',
      leaseToken,
      status: 'done',
    }));
    const request = create(BatchUpdateStatusRequestSchema, { requests });
    const answer = await this.#client.raw(BATCH_UPDATE, encode(BatchUpdateStatusRequestSchema, request));
    const { results } = fromBinary(BatchUpdateStatusResponseSchema, answer);
    const refused = results.find(({ result }) => result.case === 'error');
    if (refused !== undefined)
      throw new Error(`an update was refused: ${JSON.stringify(refused.result.value)}`);
  }

  /** @returns the next claims of one worker, which has done this one */
  async completeAndClaim(
    { run, leaseToken }: Claim,
    how: MessageInitShape<typeof ClaimNextRequestSchema> = {},
  ): Promise<readonly Claim[]> {
    const request = create(UpdateStatusRequestSchema, {
      ...{ runId: run?.id ?? '', leaseToken, status: 'done' },
      claimNext: { ...claimNext, ...how },
    });
    const answer = await this.#client.raw(UPDATE, encode(UpdateStatusRequestSchema, request));
    return fromBinary(UpdateStatusResponseSchema, answer).claims;
  }
}
