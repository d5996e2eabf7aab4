import { create } from '@bufbuild/protobuf';
import {
  PipelineSchema,
  ScheduleSchema,
  StageSchema,
  type Backoff as ProtoBackoff,
  type Pipeline as ProtoPipeline,
  type Schedule as ProtoSchedule,
  type Stage as ProtoStage,
} from '../../../gen/baton/v1/pipeline_pb.js';
import {
  PIPELINE_DEFAULTS,
  STAGE_DEFAULTS,
  type Backoff,
  type Pipeline,
  type PipelineDefinition,
  type Stage,
  type StageDefinition,
} from '../../run/pipeline.js';
import { SCHEDULE_DEFAULTS, type Schedule, type ScheduleDefinition } from '../../run/schedule.js';
import {
  dateToTimestamp,
  durationToMs,
  finite,
  jsonToStruct,
  msToDuration,
  optionalFinite,
  structToJson,
} from './values.js';
import { at, type Violations } from '../../base/violations.js';

/** A definition with every default filled in. What PutPipeline ignores (paused, generation, times) is left out. */
export function pipelineFromProto(
  pipeline: ProtoPipeline,
  field: string,
  violations: Violations,
): PipelineDefinition {
  return {
    name: pipeline.name,
    description: pipeline.description,
    initialStatus: pipeline.initialStatus || PIPELINE_DEFAULTS.initialStatus,
    errorStatus: pipeline.errorStatus || PIPELINE_DEFAULTS.errorStatus,
    canceledStatus: pipeline.canceledStatus || PIPELINE_DEFAULTS.canceledStatus,
    stages: pipeline.stages.map((stage, index) =>
      stageFromProto(stage, at(field, `stages[${index}]`), violations),
    ),
    schedules: pipeline.schedules.map((schedule, index) =>
      scheduleFromProto(schedule, at(field, `schedules[${index}]`), violations),
    ),
  };
}

function stageFromProto(stage: ProtoStage, field: string, violations: Violations): StageDefinition {
  return {
    name: stage.name,
    processingStatus: stage.processingStatus,
    doneStatus: stage.doneStatus,
    leaseMs:
      durationToMs(stage.leaseDuration, at(field, 'lease_duration'), violations) || STAGE_DEFAULTS.leaseMs,
    timeoutMs: durationToMs(stage.timeout, at(field, 'timeout'), violations) ?? STAGE_DEFAULTS.timeoutMs,
    maxAttempts: stage.maxAttempts || STAGE_DEFAULTS.maxAttempts,
    backoff: backoffFromProto(stage.backoff, at(field, 'backoff'), violations),
    maxActive: stage.maxActive,
    maxActivePerKey: stage.maxActivePerKey,
  };
}

function backoffFromProto(backoff: ProtoBackoff | undefined, field: string, violations: Violations): Backoff {
  const defaults = STAGE_DEFAULTS.backoff;
  if (backoff === undefined) return defaults;
  return {
    // 0 is a value of its own for all but the multiplier.
    initialMs: durationToMs(backoff.initial, at(field, 'initial'), violations) ?? defaults.initialMs,
    multiplier: finite(backoff.multiplier, at(field, 'multiplier'), violations) || defaults.multiplier,
    maxMs: durationToMs(backoff.max, at(field, 'max'), violations) ?? defaults.maxMs,
    jitter: optionalFinite(backoff.jitter, at(field, 'jitter'), violations) ?? defaults.jitter,
  };
}

/** What PutPipeline ignores (next_time) is left out. */
function scheduleFromProto(
  schedule: ProtoSchedule,
  field: string,
  violations: Violations,
): ScheduleDefinition {
  const { name, cron, repository, labels, priority, concurrencyKey, maxAttempts } = schedule;
  return {
    name,
    cron,
    timeZone: schedule.timeZone || SCHEDULE_DEFAULTS.timeZone,
    repository,
    labels,
    input: structToJson(schedule.input, at(field, 'input'), violations),
    priority,
    concurrencyKey,
    maxAttempts,
  };
}

export function pipelineToProto(pipeline: Pipeline): ProtoPipeline {
  return create(PipelineSchema, {
    name: pipeline.name,
    description: pipeline.description,
    initialStatus: pipeline.initialStatus,
    stages: pipeline.stages.map(stageToProto),
    errorStatus: pipeline.errorStatus,
    canceledStatus: pipeline.canceledStatus,
    paused: pipeline.paused,
    generation: pipeline.generation,
    createTime: dateToTimestamp(pipeline.createTime),
    updateTime: dateToTimestamp(pipeline.updateTime),
    schedules: pipeline.schedules.map(scheduleToProto),
  });
}

function scheduleToProto(schedule: Schedule): ProtoSchedule {
  const { name, cron, timeZone, repository, labels, priority, concurrencyKey, maxAttempts } = schedule;
  return create(ScheduleSchema, {
    name,
    cron,
    timeZone,
    repository,
    labels,
    input: jsonToStruct(schedule.input),
    priority,
    concurrencyKey,
    maxAttempts,
    nextTime: dateToTimestamp(schedule.nextTime),
  });
}

function stageToProto(stage: Stage): ProtoStage {
  const { initialMs, multiplier, maxMs, jitter } = stage.backoff;
  return create(StageSchema, {
    name: stage.name,
    waitingStatus: stage.waitingStatus,
    processingStatus: stage.processingStatus,
    doneStatus: stage.doneStatus,
    leaseDuration: msToDuration(stage.leaseMs),
    timeout: stage.timeoutMs === 0 ? undefined : msToDuration(stage.timeoutMs),
    maxAttempts: stage.maxAttempts,
    backoff: { initial: msToDuration(initialMs), multiplier, max: msToDuration(maxMs), jitter },
    maxActive: stage.maxActive,
    maxActivePerKey: stage.maxActivePerKey,
    paused: stage.paused,
  });
}
