import { create } from '@bufbuild/protobuf';
import {
  LeaseExtensionResultSchema,
  LeaseOutcome,
  UpdateStatusResultSchema,
  type LeaseExtensionResult as ProtoLeaseResult,
  type UpdateStatusResult as ProtoUpdateResult,
} from '../../../gen/baton/v1/job_service_pb.js';
import type { LeaseExtensionResult, UpdateStatusResult } from '../../service/api.js';
import { statusOf } from '../errors.js';
import { runToProto } from './run.js';
import { dateToTimestamp } from './values.js';

export function updateResultToProto(result: UpdateStatusResult): ProtoUpdateResult {
  return create(UpdateStatusResultSchema, {
    result:
      'run' in result
        ? { case: 'run', value: runToProto(result.run) }
        : { case: 'error', value: statusOf(result.error) },
  });
}

const OUTCOME_TO_PROTO: Readonly<Record<LeaseExtensionResult['outcome'], LeaseOutcome>> = {
  OK: LeaseOutcome.OK,
  CANCEL_REQUESTED: LeaseOutcome.CANCEL_REQUESTED,
  LEASE_LOST: LeaseOutcome.LEASE_LOST,
};

export function leaseResultToProto(result: LeaseExtensionResult): ProtoLeaseResult {
  return create(LeaseExtensionResultSchema, {
    runId: result.runId,
    outcome: OUTCOME_TO_PROTO[result.outcome],
    leaseExpireTime: dateToTimestamp(result.leaseExpireTime),
  });
}
