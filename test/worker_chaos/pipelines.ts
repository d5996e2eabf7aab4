import type { MessageInitShape } from '@bufbuild/protobuf';
import type { PutPipelineRequestSchema } from '../../gen/baton/v1/pipeline_service_pb.js';

/** A stage as this proof knows it, without the service's own code. */
export interface StageSpec {
  readonly name: string;
  readonly waiting: string;
  readonly processing: string;
  readonly done: string;
  readonly maxAttempts: number;
  /** 0 for no limit. */
  readonly maxActive: number;
  readonly maxActivePerKey: number;
  /** 0 for none. */
  readonly timeoutSeconds: number;
}

export interface PipelineSpec {
  readonly name: string;
  readonly error: string;
  readonly canceled: string;
  readonly stages: readonly StageSpec[];
}

const NO_LIMITS = { maxActive: 0, maxActivePerKey: 0, timeoutSeconds: 0 };

/** The built-in pipeline, and others with what it has not: one stage, limits, few attempts, a timeout. */
export const PIPELINES: readonly PipelineSpec[] = [
  {
    name: 'ci',
    error: 'error',
    canceled: 'canceled',
    stages: [
      {
        ...NO_LIMITS,
        name: 'initialize',
        waiting: 'new',
        processing: 'initializing',
        done: 'initialized',
        maxAttempts: 3,
      },
      {
        ...NO_LIMITS,
        name: 'run',
        waiting: 'initialized',
        processing: 'running',
        done: 'success',
        maxAttempts: 3,
      },
    ],
  },
  {
    name: 'single',
    error: 'broken',
    canceled: 'dropped',
    stages: [
      { ...NO_LIMITS, name: 'do', waiting: 'queued', processing: 'doing', done: 'did', maxAttempts: 6 },
    ],
  },
  {
    name: 'limited',
    error: 'failed',
    canceled: 'stopped',
    stages: [
      {
        name: 'fetch',
        waiting: 'ordered',
        processing: 'fetching',
        done: 'fetched',
        maxAttempts: 4,
        maxActive: 6,
        maxActivePerKey: 2,
        timeoutSeconds: 0,
      },
      {
        name: 'build',
        waiting: 'fetched',
        processing: 'building',
        done: 'built',
        maxAttempts: 4,
        maxActive: 0,
        maxActivePerKey: 1,
        timeoutSeconds: 0,
      },
    ],
  },
  {
    name: 'steps',
    error: 'lost',
    canceled: 'ended',
    stages: [
      { ...NO_LIMITS, name: 'one', waiting: 'zero', processing: 'in-one', done: 'after-one', maxAttempts: 2 },
      {
        ...NO_LIMITS,
        name: 'two',
        waiting: 'after-one',
        processing: 'in-two',
        done: 'after-two',
        maxAttempts: 2,
        timeoutSeconds: 3,
      },
      {
        ...NO_LIMITS,
        name: 'three',
        waiting: 'after-two',
        processing: 'in-three',
        done: 'whole',
        maxAttempts: 2,
        maxActive: 8,
      },
    ],
  },
];

/** One stage of one pipeline: where a worker claims. */
export interface Workplace {
  readonly pipeline: PipelineSpec;
  readonly stage: StageSpec;
}

export const WORKPLACES: readonly Workplace[] = PIPELINES.flatMap((pipeline) =>
  pipeline.stages.map((stage) => ({ pipeline, stage })),
);

/** All but the built-in one are put, and put again with another description while runs are at work. */
export const PUT_PIPELINES = PIPELINES.filter(({ name }) => name !== 'ci');

export function putRequest(
  spec: PipelineSpec,
  description: string,
): MessageInitShape<typeof PutPipelineRequestSchema> {
  return {
    pipeline: {
      name: spec.name,
      description,
      initialStatus: spec.stages[0]?.waiting ?? '',
      errorStatus: spec.error,
      canceledStatus: spec.canceled,
      stages: spec.stages.map((stage) => ({
        name: stage.name,
        processingStatus: stage.processing,
        doneStatus: stage.done,
        maxAttempts: stage.maxAttempts,
        maxActive: stage.maxActive,
        maxActivePerKey: stage.maxActivePerKey,
        leaseDuration: { seconds: 3n },
        ...(stage.timeoutSeconds === 0 ? {} : { timeout: { seconds: BigInt(stage.timeoutSeconds) } }),
        backoff: { initial: { nanos: 100_000_000 }, max: { seconds: 1n }, multiplier: 2, jitter: 0.5 },
      })),
    },
  };
}

export function pipelineOf(name: string): PipelineSpec {
  const found = PIPELINES.find((spec) => spec.name === name);
  if (found === undefined) throw new Error(`no pipeline ${name} was made here`);
  return found;
}
