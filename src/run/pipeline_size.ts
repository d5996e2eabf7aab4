import type { PipelineDefinition } from './pipeline.js';
import { fieldBytes, labelBytes, textBytes } from './run_size.js';

/** Numbers, times and durations of a pipeline, a stage or a schedule, with the tags of all its fields. */
const BASE_BYTES = 160;

/** About what a pipeline takes as binary protobuf, and never less. */
export function pipelineBytes(pipeline: PipelineDefinition): number {
  let bytes = BASE_BYTES + textBytes(pipeline.name) + textBytes(pipeline.description);
  for (const status of [pipeline.initialStatus, pipeline.errorStatus, pipeline.canceledStatus])
    bytes += textBytes(status);
  for (const stage of pipeline.stages) {
    bytes += BASE_BYTES + textBytes(stage.name);
    bytes += textBytes(stage.processingStatus) + textBytes(stage.doneStatus);
  }
  for (const schedule of pipeline.schedules) {
    const { name, cron, timeZone, repository, concurrencyKey } = schedule;
    bytes += BASE_BYTES + labelBytes(schedule.labels) + fieldBytes(schedule.input);
    for (const text of [name, cron, timeZone, repository, concurrencyKey]) bytes += textBytes(text);
  }
  return bytes;
}
