import type { MessageInitShape } from '@bufbuild/protobuf';
import type { PipelineStatsSchema } from '../../../gen/baton/v1/pipeline_service_pb.js';
import type { PipelineStats, StageStats } from '../../service/api.js';
import { msToDuration } from './values.js';

/** Durations are cut to the millisecond, like all of this API. */
const optional = (ms: number | undefined) => (ms === undefined ? undefined : msToDuration(Math.floor(ms)));

function stageStatsToProto({ oldestWaitingMs, waitP50Ms, waitP95Ms, ...figures }: StageStats) {
  return {
    ...figures,
    oldestWaitingAge: optional(oldestWaitingMs),
    waitP50: optional(waitP50Ms),
    waitP95: optional(waitP95Ms),
  };
}

export function statsToProto({
  stages,
  ...counts
}: PipelineStats): MessageInitShape<typeof PipelineStatsSchema> {
  return { ...counts, stages: stages.map(stageStatsToProto) };
}
