import { sameJson } from './json.js';
import type { PipelineDefinition } from './pipeline.js';
import type { JsonObject, RunEvent } from './run.js';

/** Codes of errors that the service itself gives to an attempt; no worker may send them. */
export const LEASE_EXPIRED = 'LEASE_EXPIRED';
export const ATTEMPT_TIMED_OUT = 'ATTEMPT_TIMED_OUT';
/** A run whose payload plain SQL has made such that no worker can be given it. */
export const PAYLOAD_UNREADABLE = 'PAYLOAD_UNREADABLE';
export const RESERVED_ERROR_CODES: readonly string[] = [LEASE_EXPIRED, ATTEMPT_TIMED_OUT, PAYLOAD_UNREADABLE];

/** The part of an UpdateStatus that says how an attempt ended. */
export interface ReportedEnd {
  readonly status: string;
  readonly output: JsonObject | undefined;
  readonly error: { readonly code: string; readonly message: string } | undefined;
}

/**
 * Says whether a lease was ended by this very report, so that a worker which repeats it after a lost reply is told
 * of success. `end` is the event with which the lease ended. The pipeline may be gone by now, as its last run has ended.
 */
export function endedBy(
  end: RunEvent,
  report: ReportedEnd,
  pipeline: PipelineDefinition | undefined,
): boolean {
  const { run } = end;
  if (run.error !== undefined && RESERVED_ERROR_CODES.includes(run.error.code)) return false;
  if (report.output !== undefined && !sameJson(report.output, run.output)) return false;
  if (end.type === 'FAILED' || end.type === 'RETRY_SCHEDULED') {
    return (
      report.status === (end.type === 'FAILED' ? run.status : pipeline?.errorStatus) &&
      run.error?.code === (report.error?.code ?? '') &&
      run.error.message === (report.error?.message ?? '')
    );
  }
  // An error goes with a failure only, so no report that had one has ended the lease otherwise.
  if (report.error !== undefined) return false;
  if (report.status === run.status) return true;
  // A run whose cancel was requested goes to canceled instead of waiting again.
  return (
    end.type === 'CANCELED' &&
    run.cancelRequested &&
    pipeline !== undefined &&
    waitsAfter(pipeline, end.previousStage, report.status)
  );
}

/** Whether a report of `status` in `stage` makes the run wait: for the next stage, or again for this one. */
function waitsAfter(pipeline: PipelineDefinition, stage: string, status: string): boolean {
  const index = pipeline.stages.findIndex(({ name }) => name === stage);
  const before = index === 0 ? pipeline.initialStatus : pipeline.stages[index - 1]?.doneStatus;
  const after = index === pipeline.stages.length - 1 ? undefined : pipeline.stages[index]?.doneStatus;
  return index >= 0 && (status === before || status === after);
}
