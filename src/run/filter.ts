import type { Run, RunEvent, RunState } from './run.js';

/** Which runs a list or a watch is about. An empty list or map matches every run; all that is set must match. */
export interface RunFilter {
  readonly runIds: readonly string[];
  readonly pipelines: readonly string[];
  readonly stages: readonly string[];
  readonly statuses: readonly string[];
  readonly states: readonly RunState[];
  readonly repository: string;
  readonly labels: Readonly<Record<string, string>>;
}

export const MATCH_ALL: RunFilter = {
  runIds: [],
  pipelines: [],
  stages: [],
  statuses: [],
  states: [],
  repository: '',
  labels: {},
};

const within = <T>(values: readonly T[], value: T): boolean => values.length === 0 || values.includes(value);

/** What never changes in the life of a run. */
function matchesIdentity(filter: RunFilter, run: Run): boolean {
  if (!within(filter.runIds, run.id) || !within(filter.pipelines, run.pipeline)) return false;
  if (filter.repository !== '' && filter.repository !== run.repository) return false;
  return Object.entries(filter.labels).every(
    ([key, value]) => Object.hasOwn(run.labels, key) && run.labels[key] === value,
  );
}

function matchesPlace(filter: RunFilter, stage: string, status: string, state: RunState): boolean {
  return within(filter.stages, stage) && within(filter.statuses, status) && within(filter.states, state);
}

export function matchesRun(filter: RunFilter, run: Run): boolean {
  return matchesIdentity(filter, run) && matchesPlace(filter, run.stage, run.status, run.state);
}

/**
 * Says whether an event is for this filter: the run matches as it is after the change, or as it was before it. A
 * watcher of one status therefore also sees runs leave it.
 */
export function matchesEvent(filter: RunFilter, event: RunEvent): boolean {
  if (!matchesIdentity(filter, event.run)) return false;
  if (matchesPlace(filter, event.run.stage, event.run.status, event.run.state)) return true;
  return (
    event.previousState !== undefined &&
    matchesPlace(filter, event.previousStage, event.previousStatus, event.previousState)
  );
}
