import type { Claim as ProtoClaim } from '../../../gen/baton/v1/job_service_pb.js';
import { RunState as ProtoState, type Run as ProtoRun } from '../../../gen/baton/v1/run_pb.js';
import type { Claim, Run, RunState } from '../../run/run.js';
import { dateToTimestamp, jsonToStruct } from './values.js';
import type { Violations } from '../../base/violations.js';

const STATE_TO_PROTO: Readonly<Record<RunState, ProtoState>> = {
  PENDING: ProtoState.PENDING,
  ACTIVE: ProtoState.ACTIVE,
  SUCCEEDED: ProtoState.SUCCEEDED,
  FAILED: ProtoState.FAILED,
  CANCELED: ProtoState.CANCELED,
};

const STATE_FROM_PROTO = new Map(
  Object.entries(STATE_TO_PROTO).map(([state, value]) => [value, state as RunState]),
);

/** The domain's state, or a violation and undefined for UNSPECIFIED and for values that nobody has named. */
export function stateFromProto(
  value: ProtoState,
  field: string,
  violations: Violations,
): RunState | undefined {
  const state = STATE_FROM_PROTO.get(value);
  if (state === undefined) violations.add(field, `${value} is not a state`);
  return state;
}

/**
 * A literal that names every field, which a test holds: `create` looks each one up in the descriptor, 3 µs a run.
 *
 * @param payload whether `input`, `output` and `checkpoint` go with it.
 */
export function runToProto(run: Run, payload = true): ProtoRun {
  return {
    $typeName: 'baton.v1.Run',
    id: run.id,
    pipeline: run.pipeline,
    stage: run.stage,
    status: run.status,
    state: STATE_TO_PROTO[run.state],
    repository: run.repository,
    labels: run.labels,
    input: payload ? jsonToStruct(run.input) : undefined,
    output: payload ? jsonToStruct(run.output) : undefined,
    error: run.error && {
      $typeName: 'baton.v1.RunError',
      code: run.error.code,
      message: run.error.message,
    },
    priority: run.priority,
    concurrencyKey: run.concurrencyKey,
    attempt: run.attempt,
    maxAttempts: run.maxAttempts,
    workerId: run.workerId,
    leaseExpireTime: dateToTimestamp(run.leaseExpireTime),
    scheduleTime: dateToTimestamp(run.scheduleTime),
    cancelRequested: run.cancelRequested,
    progress: run.progress,
    statusMessage: run.statusMessage,
    checkpoint: payload ? jsonToStruct(run.checkpoint) : undefined,
    version: run.version,
    createTime: dateToTimestamp(run.createTime),
    updateTime: dateToTimestamp(run.updateTime),
    startTime: dateToTimestamp(run.startTime),
    endTime: dateToTimestamp(run.endTime),
    requestId: run.requestId,
    traceParent: run.traceParent,
    payloadOmitted: payload && run.payloadOmitted,
  };
}

export function claimToProto(claim: Claim): ProtoClaim {
  return {
    $typeName: 'baton.v1.Claim',
    run: runToProto(claim.run),
    leaseToken: claim.leaseToken,
    leaseExpireTime: dateToTimestamp(claim.leaseExpireTime),
  };
}
