import { RunState } from '../../gen/baton/v1/run_pb.js';
import type { Place, TrueEvent } from '../support/chaos_truth.js';

/** A filter as a test wants it; written anew from the words of the API, without the server's code. */
export interface FilterSpec {
  readonly runIds?: readonly string[];
  readonly pipelines?: readonly string[];
  readonly stages?: readonly string[];
  readonly statuses?: readonly string[];
  readonly states?: readonly ('PENDING' | 'ACTIVE' | 'SUCCEEDED' | 'FAILED' | 'CANCELED')[];
  readonly repository?: string;
  readonly labels?: Readonly<Record<string, string>>;
}

const allows = (wanted: readonly string[] | undefined, value: string): boolean =>
  wanted === undefined || wanted.length === 0 || wanted.indexOf(value) >= 0;

function placeFits(filter: FilterSpec, place: Place): boolean {
  return (
    allows(filter.stages, place.stage) &&
    allows(filter.statuses, place.status) &&
    allows(filter.states, place.state)
  );
}

function subjectFits(filter: FilterSpec, event: TrueEvent): boolean {
  if (filter.repository !== undefined && filter.repository !== event.repository) return false;
  for (const key of Object.keys(filter.labels ?? {}))
    if (event.labels[key] !== filter.labels?.[key]) return false;
  return allows(filter.runIds, event.runId) && allows(filter.pipelines, event.pipeline);
}

/** Whether a watcher with this filter is owed the event: the run is in the filter after the change or was before. */
export function isOwed(filter: FilterSpec, event: TrueEvent): boolean {
  if (!subjectFits(filter, event)) return false;
  return placeFits(filter, event.after) || (event.before !== undefined && placeFits(filter, event.before));
}

/** Whether the run is in the filter after the event, for the state that a stream may begin with. */
export function isInState(filter: FilterSpec, event: TrueEvent): boolean {
  return subjectFits(filter, event) && placeFits(filter, event.after);
}

export function toProtoFilter(filter: FilterSpec) {
  return {
    runIds: [...(filter.runIds ?? [])],
    pipelines: [...(filter.pipelines ?? [])],
    stages: [...(filter.stages ?? [])],
    statuses: [...(filter.statuses ?? [])],
    states: (filter.states ?? []).map((state) => RunState[state]),
    repository: filter.repository ?? '',
    labels: { ...filter.labels },
  };
}
