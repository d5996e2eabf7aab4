import type {
  DescMessage,
  DescMethodServerStreaming,
  DescMethodUnary,
  DescService,
  MessageInitShape,
  MessageShape,
} from '@bufbuild/protobuf';
import type {
  JobService as JobServiceDesc,
  UpdateStatusRequest as UpdateStatusRequestMessage,
} from '../../gen/baton/v1/job_service_pb.js';
import type { PipelineService as PipelineServiceDesc } from '../../gen/baton/v1/pipeline_service_pb.js';
import { BatonError, invalidArgument } from '../base/errors.js';
import type {
  CallContext,
  JobService,
  PipelineService,
  UpdateStatusRequest,
  WatchStream,
} from '../service/api.js';
import { validateItem } from '../service/batch_update_status.js';
import { validateCancels } from '../service/cancel_runs.js';
import { validateClaim } from '../service/claim_next.js';
import { validateCreate, validateCreates } from '../service/create_run.js';
import { validateExtension } from '../service/extend_leases.js';
import { validateList } from '../service/list_runs.js';
import { validatePipeline } from '../service/pipelines.js';
import { validateRetries } from '../service/retry_runs.js';
import { validateUpdateAndClaim } from '../service/update_status.js';
import { validateWatch } from '../service/watch_runs.js';
import { pipelineFromProto, pipelineToProto } from './convert/pipeline.js';
import { statsToProto } from './convert/stats.js';
import * as requests from './convert/requests.js';
import { filterFromProto } from './convert/filter.js';
import { leaseResultToProto, updateResultsToProto } from './convert/results.js';
import { claimToProto, runToProto } from './convert/run.js';
import { converting } from './convert/violations.js';
import { eventToProto } from './convert/watch.js';

/** Answers one unary RPC in terms of its messages. Throws `BatonError`, or an error that becomes INTERNAL. */
export type UnaryHandler<I extends DescMessage, O extends DescMessage> = (
  request: MessageShape<I>,
  call: CallContext,
) => Promise<MessageInitShape<O>>;

/** Opens the stream of one server-streaming RPC. The transport pulls, encodes and closes. */
export type StreamHandler<I extends DescMessage> = (
  request: MessageShape<I>,
  call: CallContext,
) => Promise<WatchStream>;

/** One handler for every method of a service: leaving one out, or one too many, does not compile. */
export type ServiceHandlers<S extends DescService> = {
  readonly [K in keyof S['method']]: S['method'][K] extends DescMethodUnary<infer I, infer O>
    ? UnaryHandler<I, O>
    : S['method'][K] extends DescMethodServerStreaming<infer I>
      ? StreamHandler<I>
      : never;
};

/** All RPCs of Baton, the same for both listeners. */
export interface Handlers {
  readonly job: ServiceHandlers<typeof JobServiceDesc>;
  readonly pipeline: ServiceHandlers<typeof PipelineServiceDesc>;
}

/** Makes the handlers over a service. */
export function createHandlers(job: JobService, pipeline: PipelineService): Handlers {
  return { job: jobHandlers(job), pipeline: pipelineHandlers(pipeline) };
}

function jobHandlers(service: JobService): Handlers['job'] {
  return {
    async createRun(request, call) {
      const input = converting((v) => requests.createRunFromProto(request, '', v), validateCreate);
      return { run: runToProto(await service.createRun(input, call)) };
    },
    async batchCreateRuns(request, call) {
      const input = converting((v) => requests.batchCreateFromProto(request, v), validateCreates);
      const runs = await service.batchCreateRuns(input, call);
      return { runs: runs.map((run) => runToProto(run)) };
    },
    async getRun(request, call) {
      return { run: runToProto(await service.getRun(request.id, call)) };
    },
    async listRuns(request, call) {
      const input = converting((v) => requests.listRunsFromProto(request, v), validateList);
      const { runs, nextPageToken, revision, resumeToken } = await service.listRuns(input, call);
      return { runs: runs.map((run) => runToProto(run)), nextPageToken, revision, resumeToken };
    },
    async claimNext(request, call) {
      const input = converting((v) => requests.claimNextFromProto(request, '', v), validateClaim);
      const claims = await service.claimNext(input, call);
      return { claims: claims.map(claimToProto) };
    },
    async updateStatus(request, call) {
      const input = converting((v) => requests.updateStatusFromProto(request, '', v), validateUpdateAndClaim);
      const { run, cancelRequested, claims } = await service.updateStatus(input, call);
      return { run: runToProto(run), cancelRequested, claims: claims.map(claimToProto) };
    },
    async batchUpdateStatus(request, call) {
      // Each item stands alone: one that cannot even be converted has its own error, and the others go on.
      const results = await service.batchUpdateStatus(request.requests.map(updateItem), call);
      return { results: updateResultsToProto(results) };
    },
    async extendLeases(request, call) {
      const input = converting((v) => requests.extendLeasesFromProto(request, v), validateExtension);
      const results = await service.extendLeases(input, call);
      return { results: results.map(leaseResultToProto) };
    },
    async cancelRun({ runId, reason }, call) {
      return { run: runToProto(await service.cancelRun({ runId, reason }, call)) };
    },
    async cancelRuns(request, call) {
      const { reason } = request;
      const input = converting(
        (v) => ({ filter: filterFromProto(request.filter, 'filter', v), reason }),
        validateCancels,
      );
      const counts = await service.cancelRuns(input, call);
      return {
        matchedCount: BigInt(counts.matchedCount),
        canceledCount: BigInt(counts.canceledCount),
        cancelRequestedCount: BigInt(counts.cancelRequestedCount),
      };
    },
    async retryRun({ runId, stage }, call) {
      return { run: runToProto(await service.retryRun({ runId, stage }, call)) };
    },
    async retryRuns(request, call) {
      const { stage } = request;
      const input = converting(
        (v) => ({ filter: filterFromProto(request.filter, 'filter', v), stage }),
        validateRetries,
      );
      const counts = await service.retryRuns(input, call);
      return { matchedCount: BigInt(counts.matchedCount), retriedCount: BigInt(counts.retriedCount) };
    },
    async listRunEvents(request, call) {
      const input = requests.listRunEventsFromProto(request);
      const { events, nextPageToken } = await service.listRunEvents(input, call);
      return { events: events.map((event) => eventToProto(event)), nextPageToken };
    },
    async watchRuns(request, call) {
      const input = converting((v) => requests.watchRunsFromProto(request, v), validateWatch);
      return service.watchRuns(input, call);
    },
  };
}

function pipelineHandlers(service: PipelineService): Handlers['pipeline'] {
  return {
    async putPipeline(request, call) {
      const proto = request.pipeline;
      if (proto === undefined) throw invalidArgument([{ field: 'pipeline', description: 'is required' }]);
      const definition = converting(
        (v) => pipelineFromProto(proto, 'pipeline', v),
        (found, of) => validatePipeline(found.at('pipeline'), of),
      );
      return { pipeline: pipelineToProto(await service.putPipeline(definition, call)) };
    },
    async getPipeline(request, call) {
      return { pipeline: pipelineToProto(await service.getPipeline(request.name, call)) };
    },
    async listPipelines(request, call) {
      const { pageSize, pageToken } = request;
      const { pipelines, nextPageToken } = await service.listPipelines({ pageSize, pageToken }, call);
      return { pipelines: pipelines.map(pipelineToProto), nextPageToken };
    },
    async deletePipeline(request, call) {
      await service.deletePipeline(request.name, call);
      return {};
    },
    async pausePipeline({ name, stage }, call) {
      return { pipeline: pipelineToProto(await service.pausePipeline({ name, stage }, call)) };
    },
    async resumePipeline({ name, stage }, call) {
      return { pipeline: pipelineToProto(await service.resumePipeline({ name, stage }, call)) };
    },
    async getStats(request, call) {
      return { pipelines: (await service.getStats(request.pipeline, call)).map(statsToProto) };
    },
  };
}

function updateItem(item: UpdateStatusRequestMessage, index: number): UpdateStatusRequest | BatonError {
  const path = `requests[${index}]`;
  try {
    return converting(
      (v) => requests.updateStatusFromProto(item, path, v),
      (found, request) => validateItem(found.at(path), request),
    );
  } catch (error) {
    if (error instanceof BatonError) return error;
    throw error;
  }
}
