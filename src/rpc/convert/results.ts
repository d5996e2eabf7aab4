import { create, toBinary } from '@bufbuild/protobuf';
import {
  LeaseExtensionResultSchema,
  LeaseOutcome,
  UpdateStatusResultSchema,
  type LeaseExtensionResult as ProtoLeaseResult,
  type UpdateStatusResult as ProtoUpdateResult,
} from '../../../gen/baton/v1/job_service_pb.js';
import type { LeaseExtensionResult, UpdateStatusResult } from '../../service/api.js';
import { StatusSchema } from '../../../gen/google/rpc/status_pb.js';
import { shortStatus, statusOf } from '../errors.js';
import { RPC_LIMITS } from '../limits.js';
import { runToProto } from './run.js';
import { dateToTimestamp } from './values.js';

/** Errors that would make the answer too large come without what can be long. */
export function updateResultsToProto(results: readonly UpdateStatusResult[]): ProtoUpdateResult[] {
  let errorBytes = 0;
  return results.map((result) => {
    if ('run' in result)
      return create(UpdateStatusResultSchema, { result: { case: 'run', value: runToProto(result.run) } });
    const status = statusOf(result.error);
    errorBytes += toBinary(StatusSchema, status).byteLength;
    const value = errorBytes <= RPC_LIMITS.itemErrorBytes ? status : shortStatus(status);
    return create(UpdateStatusResultSchema, { result: { case: 'error', value } });
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
