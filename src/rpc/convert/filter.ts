import type { RunFilter as ProtoFilter } from '../../../gen/baton/v1/filter_pb.js';
import { MATCH_ALL, type RunFilter } from '../../run/filter.js';
import { stateFromProto } from './run.js';
import type { Violations } from '../../base/violations.js';

export function filterFromProto(
  filter: ProtoFilter | undefined,
  field: string,
  violations: Violations,
): RunFilter {
  if (filter === undefined) return MATCH_ALL;
  const { runIds, pipelines, stages, statuses, repository, labels } = filter;
  const states = filter.states
    .map((state, index) => stateFromProto(state, `${field}.states[${index}]`, violations))
    .filter((state) => state !== undefined);
  return { runIds, pipelines, stages, statuses, states, repository, labels };
}
