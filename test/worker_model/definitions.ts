import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type { PutPipelineRequestSchema } from '../../gen/baton/v1/pipeline_service_pb.js';

/** A stage as the contract describes it. */
export interface ModelStage {
  readonly name: string;
  readonly waiting: string;
  readonly processing: string;
  readonly done: string;
  readonly maxAttempts: number;
  readonly maxActive: number;
  readonly maxActivePerKey: number;
  /** The wait after the first attempt; each one after it is twice as long. */
  readonly backoffMs: number;
}

export interface ModelPipeline {
  readonly name: string;
  readonly error: string;
  readonly canceled: string;
  readonly stages: readonly ModelStage[];
}

const HOUR_MS = 3_600_000;

const stage = (
  name: string,
  [waiting, processing, done]: readonly [string, string, string],
  rules: Partial<ModelStage> = {},
): ModelStage => ({
  ...{
    name,
    waiting,
    processing,
    done,
    maxAttempts: 3,
    maxActive: 0,
    maxActivePerKey: 0,
    backoffMs: HOUR_MS,
  },
  ...rules,
});

/** Backoffs that never end by themselves: a run comes due when the test says so. */
export const PIPELINES: readonly ModelPipeline[] = [
  {
    name: 'ci',
    error: 'error',
    canceled: 'canceled',
    stages: [
      stage('initialize', ['new', 'initializing', 'initialized']),
      stage('run', ['initialized', 'running', 'success']),
    ],
  },
  {
    name: 'one',
    error: 'bad',
    canceled: 'gone',
    stages: [stage('only', ['queued', 'doing', 'did'], { maxActive: 3, maxAttempts: 2 })],
  },
  {
    name: 'three',
    error: 'failed',
    canceled: 'dropped',
    stages: [
      stage('a', ['a-waits', 'a-works', 'b-waits'], { maxAttempts: 1 }),
      stage('b', ['b-waits', 'b-works', 'c-waits'], {
        maxAttempts: 2,
        maxActivePerKey: 1,
        backoffMs: HOUR_MS,
      }),
      stage('c', ['c-waits', 'c-works', 'over'], {
        maxAttempts: 3,
        maxActive: 4,
        maxActivePerKey: 2,
        backoffMs: 0,
      }),
    ],
  },
];

export function pipelineNamed(name: string): ModelPipeline {
  const found = PIPELINES.find((pipeline) => pipeline.name === name);
  if (found === undefined) throw new Error(`the model has no pipeline ${name}`);
  return found;
}

export function putRequest(pipeline: ModelPipeline): MessageInitShape<typeof PutPipelineRequestSchema> {
  return {
    pipeline: {
      name: pipeline.name,
      initialStatus: pipeline.stages[0]?.waiting ?? '',
      errorStatus: pipeline.error,
      canceledStatus: pipeline.canceled,
      stages: pipeline.stages.map((one) => ({
        name: one.name,
        processingStatus: one.processing,
        doneStatus: one.done,
        maxAttempts: one.maxAttempts,
        maxActive: one.maxActive,
        maxActivePerKey: one.maxActivePerKey,
        backoff: {
          initial: durationFromMs(one.backoffMs),
          max: durationFromMs(24 * HOUR_MS),
          multiplier: 2,
          jitter: 0,
        },
      })),
    },
  };
}
