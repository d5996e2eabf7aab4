import type { Backoff, Pipeline, Stage } from '../run/pipeline.js';
import type { EventType, JsonObject, Run, RunEvent, RunState } from '../run/run.js';
import type { Schedule } from '../run/schedule.js';

/** The columns that a run and an event share, as `pg` returns them. */
interface SharedRow {
  pipeline: string;
  stage: string;
  status: string;
  state: RunState;
  repository: string;
  labels: Record<string, string>;
  error_code: string | null;
  error_message: string | null;
  priority: number;
  concurrency_key: string;
  attempt: number;
  attempts_allowed: number;
  worker_id: string;
  lease_expire_time: Date | null;
  schedule_time: Date | null;
  cancel_requested: boolean;
  progress: number;
  status_message: string;
  version: bigint;
  create_time: Date;
  update_time: Date;
  start_time: Date | null;
  end_time: Date | null;
  request_id: string | null;
  trace_parent: string;
  input?: JsonObject | null;
  output?: JsonObject | null;
  checkpoint?: JsonObject | null;
  payload_omitted?: boolean;
}

const SHARED_COLUMNS = [
  'pipeline',
  'stage',
  'status',
  'state',
  'repository',
  'labels',
  'error_code',
  'error_message',
  'priority',
  'concurrency_key',
  'attempt',
  'attempts_allowed',
  'worker_id',
  'lease_expire_time',
  'schedule_time',
  'cancel_requested',
  'progress',
  'status_message',
  'version',
  'create_time',
  'update_time',
  'start_time',
  'end_time',
  'request_id',
  'trace_parent',
];

/** The select list of a run from an alias of `baton.runs`, without input, output and checkpoint. */
export function runColumns(alias: string): string {
  return ['id', ...SHARED_COLUMNS].map((name) => `${alias}.${name}`).join(', ');
}

/** The select list of an event from an alias of `baton.run_events`, without payload. */
export function eventColumns(alias: string): string {
  return [
    'revision',
    'type',
    'previous_status',
    'previous_stage',
    'previous_state',
    'run_id',
    ...SHARED_COLUMNS,
  ]
    .map((name) => `${alias}.${name}`)
    .join(', ');
}

export interface RunRow extends SharedRow {
  id: string;
}

export interface EventRow extends SharedRow {
  revision: bigint;
  type: EventType;
  previous_status: string;
  previous_stage: string;
  previous_state: RunState | null;
  run_id: string;
}

function decodeShared(id: string, row: SharedRow): Run {
  return {
    id,
    pipeline: row.pipeline,
    stage: row.stage,
    status: row.status,
    state: row.state,
    repository: row.repository,
    labels: row.labels,
    input: row.input ?? undefined,
    output: row.output ?? undefined,
    error: row.error_code === null ? undefined : { code: row.error_code, message: row.error_message ?? '' },
    priority: row.priority,
    concurrencyKey: row.concurrency_key,
    attempt: row.attempt,
    maxAttempts: row.attempts_allowed,
    workerId: row.worker_id,
    leaseExpireTime: row.lease_expire_time ?? undefined,
    scheduleTime: row.schedule_time ?? undefined,
    cancelRequested: row.cancel_requested,
    progress: row.progress,
    statusMessage: row.status_message,
    checkpoint: row.checkpoint ?? undefined,
    version: row.version,
    createTime: row.create_time,
    updateTime: row.update_time,
    startTime: row.start_time ?? undefined,
    endTime: row.end_time ?? undefined,
    requestId: row.request_id ?? '',
    traceParent: row.trace_parent,
    payloadOmitted: row.payload_omitted ?? false,
  };
}

export function decodeRun(row: RunRow): Run {
  return decodeShared(row.id, row);
}

export function decodeEvent(row: EventRow): RunEvent {
  return {
    revision: row.revision,
    type: row.type,
    previousStatus: row.previous_status,
    previousStage: row.previous_stage,
    previousState: row.previous_state ?? undefined,
    run: decodeShared(row.run_id, row),
  };
}

export interface StageRow {
  name: string;
  waiting_status: string;
  processing_status: string;
  done_status: string;
  lease_ms: number;
  timeout_ms: number;
  max_attempts: number;
  backoff_initial_ms: number;
  backoff_multiplier: number;
  backoff_max_ms: number;
  backoff_jitter: number;
  max_active: number;
  max_active_per_key: number;
  paused: boolean;
}

export interface ScheduleRow {
  name: string;
  cron: string;
  time_zone: string;
  repository: string;
  labels: Record<string, string>;
  input: JsonObject | null;
  priority: number;
  concurrency_key: string;
  max_attempts: number | null;
  /** Text, as it comes inside JSON. */
  next_time: string;
}

export interface PipelineRow {
  name: string;
  description: string;
  initial_status: string;
  error_status: string;
  canceled_status: string;
  paused: boolean;
  generation: bigint;
  create_time: Date;
  update_time: Date;
  /** The stages in order, as one JSON array. */
  stages: StageRow[];
  schedules: ScheduleRow[];
}

function decodeStage(row: StageRow): Stage {
  const backoff: Backoff = {
    initialMs: row.backoff_initial_ms,
    multiplier: row.backoff_multiplier,
    maxMs: row.backoff_max_ms,
    jitter: row.backoff_jitter,
  };
  return {
    name: row.name,
    waitingStatus: row.waiting_status,
    processingStatus: row.processing_status,
    doneStatus: row.done_status,
    leaseMs: row.lease_ms,
    timeoutMs: row.timeout_ms,
    maxAttempts: row.max_attempts,
    backoff,
    maxActive: row.max_active,
    maxActivePerKey: row.max_active_per_key,
    paused: row.paused,
  };
}

function decodeSchedule(row: ScheduleRow): Schedule {
  return {
    name: row.name,
    cron: row.cron,
    timeZone: row.time_zone,
    repository: row.repository,
    labels: row.labels,
    input: row.input ?? undefined,
    priority: row.priority,
    concurrencyKey: row.concurrency_key,
    maxAttempts: row.max_attempts ?? 0,
    nextTime: new Date(row.next_time),
  };
}

export function decodePipeline(row: PipelineRow): Pipeline {
  return {
    name: row.name,
    description: row.description,
    initialStatus: row.initial_status,
    errorStatus: row.error_status,
    canceledStatus: row.canceled_status,
    paused: row.paused,
    generation: row.generation,
    createTime: row.create_time,
    updateTime: row.update_time,
    stages: row.stages.map(decodeStage),
    schedules: row.schedules.map(decodeSchedule),
  };
}
