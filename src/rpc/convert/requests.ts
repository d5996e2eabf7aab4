import type * as pb from '../../../gen/baton/v1/job_service_pb.js';
import type {
  ClaimNextRequest,
  CreateRunRequest,
  ExtendLeasesRequest,
  LeaseExtension,
  ListRunEventsRequest,
  ListRunsRequest,
  UpdateError,
  UpdateStatusRequest,
  WatchRunsRequest,
} from '../../service/api.js';
import { filterFromProto } from './filter.js';
import { durationToMs, optionalFinite, structToJson, timestampToDate } from './values.js';
import { at, type Violations } from '../../base/violations.js';

/** @param path where the message stands in the request that came in; '' for the request itself. */
export function createRunFromProto(
  request: pb.CreateRunRequest,
  path: string,
  violations: Violations,
): CreateRunRequest {
  const { pipeline, repository, labels, priority, concurrencyKey, maxAttempts, requestId, traceParent } =
    request;
  return {
    pipeline,
    repository,
    labels,
    input: structToJson(request.input, at(path, 'input'), violations),
    priority,
    scheduleTime: timestampToDate(request.scheduleTime, at(path, 'schedule_time'), violations),
    concurrencyKey,
    maxAttempts,
    requestId,
    traceParent,
  };
}

export function batchCreateFromProto(
  request: pb.BatchCreateRunsRequest,
  violations: Violations,
): CreateRunRequest[] {
  return request.requests.map((item, index) => createRunFromProto(item, `requests[${index}]`, violations));
}

export function listRunsFromProto(request: pb.ListRunsRequest, violations: Violations): ListRunsRequest {
  const { pageSize, pageToken, includePayload } = request;
  return {
    filter: filterFromProto(request.filter, 'filter', violations),
    pageSize,
    pageToken,
    includePayload,
  };
}

export function claimNextFromProto(
  request: pb.ClaimNextRequest,
  path: string,
  violations: Violations,
): ClaimNextRequest {
  const { pipeline, stage, workerId, maxRuns, requestId } = request;
  return {
    pipeline,
    stage,
    workerId,
    maxRuns,
    waitMs: durationToMs(request.wait, at(path, 'wait'), violations) ?? 0,
    leaseMs: durationToMs(request.leaseDuration, at(path, 'lease_duration'), violations) ?? 0,
    requestId,
  };
}

function updateErrorFromProto(error: pb.UpdateError, path: string, violations: Violations): UpdateError {
  const { code, message, retryable } = error;
  const retryDelayMs = durationToMs(error.retryDelay, at(path, 'retry_delay'), violations);
  return { code, message, retryable, retryDelayMs };
}

export function updateStatusFromProto(
  request: pb.UpdateStatusRequest,
  path: string,
  violations: Violations,
): UpdateStatusRequest {
  const { runId, leaseToken, status, statusMessage, error, claimNext } = request;
  return {
    runId,
    leaseToken,
    status,
    output: structToJson(request.output, at(path, 'output'), violations),
    error: error && updateErrorFromProto(error, at(path, 'error'), violations),
    progress: optionalFinite(request.progress, at(path, 'progress'), violations),
    statusMessage,
    checkpoint: structToJson(request.checkpoint, at(path, 'checkpoint'), violations),
    claimNext: claimNext && claimNextFromProto(claimNext, at(path, 'claim_next'), violations),
  };
}

export function listRunEventsFromProto(request: pb.ListRunEventsRequest): ListRunEventsRequest {
  const { runId, pageSize, pageToken, includePayload } = request;
  return { runId, pageSize, pageToken, includePayload };
}

export function watchRunsFromProto(request: pb.WatchRunsRequest, violations: Violations): WatchRunsRequest {
  const { after, includeState, includePayload, untilTerminal } = request;
  return {
    filter: filterFromProto(request.filter, 'filter', violations),
    after,
    includeState,
    includePayload,
    untilTerminal,
    bookmarkIntervalMs: durationToMs(request.bookmarkInterval, 'bookmark_interval', violations) ?? 0,
  };
}

function leaseFromProto(lease: pb.LeaseExtension, path: string, violations: Violations): LeaseExtension {
  const { runId, leaseToken, statusMessage } = lease;
  return {
    runId,
    leaseToken,
    progress: optionalFinite(lease.progress, at(path, 'progress'), violations),
    statusMessage,
    checkpoint: structToJson(lease.checkpoint, at(path, 'checkpoint'), violations),
  };
}

export function extendLeasesFromProto(
  request: pb.ExtendLeasesRequest,
  violations: Violations,
): ExtendLeasesRequest {
  return {
    leases: request.leases.map((lease, index) => leaseFromProto(lease, `leases[${index}]`, violations)),
    leaseMs: durationToMs(request.leaseDuration, 'lease_duration', violations) ?? 0,
  };
}
