import type { BatonError } from '../base/errors.js';
import type { RunFilter } from '../run/filter.js';
import type { Pipeline, PipelineDefinition } from '../run/pipeline.js';
import type { Claim, JsonObject, Run, RunEvent } from '../run/run.js';
import type { TakeMessage, WatchMessage } from '../watch/message.js';

export type { TakeMessage, WatchKind, WatchMessage } from '../watch/message.js';

/**
 * The service without a transport: what each RPC takes and gives, in the project's own types. `rpc/` converts
 * between these and the messages of `proto/baton/v1`; field names follow the `.proto`, durations are in
 * milliseconds, and an absent string is ''. Every call throws only `BatonError`, or an unknown error that the
 * transport reports as INTERNAL.
 */

/** The part of an `AbortSignal` that calls need; making a real one costs too much, see `rpc/call_signal.ts`. */
export interface CallSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  addEventListener(type: 'abort', listener: () => void): void;
  removeEventListener(type: 'abort', listener: () => void): void;
}

/** What a call knows of its caller. */
export interface CallContext {
  /** Aborted when the caller has gone away, its deadline has passed, or the server gives up on the call. */
  readonly signal: CallSignal;
  /**
   * Asks to be told when the answer of this call was given to the transport and did not get out: the caller had gone, or
   * its connection broke. What was sent and got lost on the way is not seen.
   */
  onUndelivered(callback: () => void): void;
  /** Ends the call from the server's side, also when its writer is blocked and would never hear of it. */
  abandon(error: BatonError): void;
}

export interface CreateRunRequest {
  readonly pipeline: string;
  readonly repository: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly input: JsonObject | undefined;
  readonly priority: number;
  readonly scheduleTime: Date | undefined;
  readonly concurrencyKey: string;
  /** 0 for each stage's own. */
  readonly maxAttempts: number;
  readonly requestId: string;
  readonly traceParent: string;
}

export interface ListRunsRequest {
  readonly filter: RunFilter;
  /** 0 for the default. */
  readonly pageSize: number;
  readonly pageToken: string;
  readonly includePayload: boolean;
}

export interface ListRunsResponse {
  readonly runs: readonly Run[];
  readonly nextPageToken: string;
  /** The log's head in the snapshot of this page. */
  readonly revision: bigint;
  readonly resumeToken: string;
}

export interface ClaimNextRequest {
  readonly pipeline: string;
  readonly stage: string;
  readonly workerId: string;
  /** 0 for the default of 1. */
  readonly maxRuns: number;
  readonly waitMs: number;
  /** 0 for the stage's own. */
  readonly leaseMs: number;
  readonly requestId: string;
}

export interface UpdateError {
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  /** Undefined for the stage's backoff. */
  readonly retryDelayMs: number | undefined;
}

export interface UpdateStatusRequest {
  readonly runId: string;
  readonly leaseToken: string;
  readonly status: string;
  readonly output: JsonObject | undefined;
  readonly error: UpdateError | undefined;
  readonly progress: number | undefined;
  readonly statusMessage: string | undefined;
  readonly checkpoint: JsonObject | undefined;
  readonly claimNext: ClaimNextRequest | undefined;
}

export interface UpdateStatusResponse {
  readonly run: Run;
  readonly cancelRequested: boolean;
  readonly claims: readonly Claim[];
}

export type UpdateStatusResult = { readonly run: Run } | { readonly error: BatonError };

export interface LeaseExtension {
  readonly runId: string;
  readonly leaseToken: string;
  readonly progress: number | undefined;
  readonly statusMessage: string | undefined;
  readonly checkpoint: JsonObject | undefined;
}

export interface ExtendLeasesRequest {
  readonly leases: readonly LeaseExtension[];
  /** 0 for the duration each lease was claimed with. */
  readonly leaseMs: number;
}

export interface LeaseExtensionResult {
  readonly runId: string;
  readonly outcome: 'OK' | 'CANCEL_REQUESTED' | 'LEASE_LOST';
  readonly leaseExpireTime: Date | undefined;
}

export interface CancelRunRequest {
  readonly runId: string;
  readonly reason: string;
}

/** A change to all runs that match a filter. */
export interface BulkRequest {
  readonly filter: RunFilter;
  readonly reason: string;
}

export interface CancelRunsResponse {
  readonly matchedCount: number;
  readonly canceledCount: number;
  readonly cancelRequestedCount: number;
}

export interface RetryRunRequest {
  readonly runId: string;
  /** '' for the stage in which the run ended. */
  readonly stage: string;
}

export interface RetryRunsRequest {
  readonly filter: RunFilter;
  readonly stage: string;
}

export interface RetryRunsResponse {
  readonly matchedCount: number;
  readonly retriedCount: number;
}

export interface PauseRequest {
  readonly name: string;
  /** '' for the whole pipeline. */
  readonly stage: string;
}

export interface ListRunEventsRequest {
  readonly runId: string;
  readonly pageSize: number;
  readonly pageToken: string;
  readonly includePayload: boolean;
}

export interface ListRunEventsResponse {
  readonly events: readonly RunEvent[];
  readonly nextPageToken: string;
}

export interface WatchRunsRequest {
  readonly filter: RunFilter;
  /** A resume token, '' for from now, 'oldest' for all kept history. */
  readonly after: string;
  readonly includeState: boolean;
  readonly includePayload: boolean;
  readonly untilTerminal: boolean;
  /** 0 for the default. */
  readonly bookmarkIntervalMs: number;
}

/** The server's side of one open stream. */
export interface WatchStream {
  /**
   * The next message, as soon as there is one; undefined when the stream ends well. Throws the `BatonError` that
   * ends it otherwise. At most one call may be pending, and the next one is made when the last message was written.
   */
  next(): Promise<WatchMessage | undefined>;
  /**
   * In place of a `next` that would wait: from now on each message is handed to `take` in the moment at which it is there.
   * `take` says whether there is room for another one. Resolves when there is not, or when the stream comes to anything but
   * a message: it goes on with `next` then. Undefined when there may be something to say already, or always, where a stream
   * does not do this.
   *
   * @throws what `take` throws
   */
  handOver?(take: TakeMessage): Promise<void> | undefined;
  /** Ends the stream from the reader's side. A pending `next` gets undefined. Harmless when repeated. */
  close(): void;
}

export interface ListPipelinesRequest {
  readonly pageSize: number;
  readonly pageToken: string;
}

export interface ListPipelinesResponse {
  readonly pipelines: readonly Pipeline[];
  readonly nextPageToken: string;
}

/** The figures of one stage; rates and percentiles are of the last minute. */
export interface StageStats {
  readonly stage: string;
  readonly pendingCount: bigint;
  readonly activeCount: bigint;
  /** Undefined when no run is claimable. */
  readonly oldestWaitingMs: number | undefined;
  readonly claimsPerSecond: number;
  readonly completionsPerSecond: number;
  /** Undefined when there was no claim, as is the other. */
  readonly waitP50Ms: number | undefined;
  readonly waitP95Ms: number | undefined;
  readonly paused: boolean;
}

export interface PipelineStats {
  readonly pipeline: string;
  readonly succeededCount: bigint;
  readonly failedCount: bigint;
  readonly canceledCount: bigint;
  /** In the order of the pipeline. */
  readonly stages: readonly StageStats[];
}

export interface JobService {
  createRun(request: CreateRunRequest, call: CallContext): Promise<Run>;
  batchCreateRuns(requests: readonly CreateRunRequest[], call: CallContext): Promise<readonly Run[]>;
  getRun(id: string, call: CallContext): Promise<Run>;
  listRuns(request: ListRunsRequest, call: CallContext): Promise<ListRunsResponse>;
  claimNext(request: ClaimNextRequest, call: CallContext): Promise<readonly Claim[]>;
  updateStatus(request: UpdateStatusRequest, call: CallContext): Promise<UpdateStatusResponse>;
  batchUpdateStatus(
    requests: readonly (UpdateStatusRequest | BatonError)[],
    call: CallContext,
  ): Promise<readonly UpdateStatusResult[]>;
  extendLeases(request: ExtendLeasesRequest, call: CallContext): Promise<readonly LeaseExtensionResult[]>;
  cancelRun(request: CancelRunRequest, call: CallContext): Promise<Run>;
  cancelRuns(request: BulkRequest, call: CallContext): Promise<CancelRunsResponse>;
  retryRun(request: RetryRunRequest, call: CallContext): Promise<Run>;
  retryRuns(request: RetryRunsRequest, call: CallContext): Promise<RetryRunsResponse>;
  listRunEvents(request: ListRunEventsRequest, call: CallContext): Promise<ListRunEventsResponse>;
  watchRuns(request: WatchRunsRequest, call: CallContext): Promise<WatchStream>;
}

export interface PipelineService {
  putPipeline(definition: PipelineDefinition, call: CallContext): Promise<Pipeline>;
  getPipeline(name: string, call: CallContext): Promise<Pipeline>;
  listPipelines(request: ListPipelinesRequest, call: CallContext): Promise<ListPipelinesResponse>;
  deletePipeline(name: string, call: CallContext): Promise<void>;
  pausePipeline(request: PauseRequest, call: CallContext): Promise<Pipeline>;
  resumePipeline(request: PauseRequest, call: CallContext): Promise<Pipeline>;
  /** @param pipeline '' for all of them */
  getStats(pipeline: string, call: CallContext): Promise<readonly PipelineStats[]>;
}
