/** A JSON object as the API's `google.protobuf.Struct` fields carry it. */
export type JsonObject = { readonly [key: string]: unknown };

/** The generic phase behind a pipeline's own status names; also the labels of the database's `run_state`. */
export const RUN_STATES = ['PENDING', 'ACTIVE', 'SUCCEEDED', 'FAILED', 'CANCELED'] as const;
export type RunState = (typeof RUN_STATES)[number];

export const TERMINAL_STATES: readonly RunState[] = ['SUCCEEDED', 'FAILED', 'CANCELED'];

export function isTerminal(state: RunState): boolean {
  return state === 'SUCCEEDED' || state === 'FAILED' || state === 'CANCELED';
}

export interface RunError {
  readonly code: string;
  readonly message: string;
}

/** One piece of work. The fields mean what `proto/baton/v1/run.proto` says of them; times are the database's. */
export interface Run {
  readonly id: string;
  readonly pipeline: string;
  readonly stage: string;
  readonly status: string;
  readonly state: RunState;
  readonly repository: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly input: JsonObject | undefined;
  readonly output: JsonObject | undefined;
  readonly error: RunError | undefined;
  readonly priority: number;
  readonly concurrencyKey: string;
  readonly attempt: number;
  readonly maxAttempts: number;
  readonly workerId: string;
  readonly leaseExpireTime: Date | undefined;
  readonly scheduleTime: Date | undefined;
  readonly cancelRequested: boolean;
  readonly progress: number;
  readonly statusMessage: string;
  readonly checkpoint: JsonObject | undefined;
  readonly version: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
  readonly startTime: Date | undefined;
  readonly endTime: Date | undefined;
  readonly requestId: string;
  readonly traceParent: string;
  /** Input, output and checkpoint were asked for, and left out because they do not fit the answer. */
  readonly payloadOmitted: boolean;
}

/** What a change of a run is known by. */
export type Change = Pick<Run, 'id' | 'version'>;

export function changeKey({ id, version }: Change): string {
  return `${id}/${version}`;
}

/** What a change was; the labels of the database's `event_type`. */
export const EVENT_TYPES = [
  'CREATED',
  'CLAIMED',
  'UPDATED',
  'STAGE_COMPLETED',
  'SUCCEEDED',
  'FAILED',
  'CANCELED',
  'CANCEL_REQUESTED',
  'RELEASED',
  'RETRY_SCHEDULED',
  'LEASE_EXPIRED',
  'RETRIED',
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** One committed change of one run. `run` is the run as it was right after this change. */
export interface RunEvent {
  readonly revision: bigint;
  readonly type: EventType;
  /** Where the run was before; all three are empty for CREATED. */
  readonly previousStatus: string;
  readonly previousStage: string;
  readonly previousState: RunState | undefined;
  readonly run: Run;
}

/** A lease as it is handed to a worker. The token is the fence: who has it may change the run. */
export interface Claim {
  readonly run: Run;
  readonly leaseToken: string;
  readonly leaseExpireTime: Date;
}
