import type { RunState } from './run.js';
import type { Schedule, ScheduleDefinition } from './schedule.js';

/** How long a failed attempt waits: `initial * multiplier^(attempt-1)`, at most `max`, less a random part. */
export interface Backoff {
  readonly initialMs: number;
  readonly multiplier: number;
  readonly maxMs: number;
  /** Fraction of the delay that is random, 0 to 1. */
  readonly jitter: number;
}

/** One stage as a user defines it, with every default filled in. */
export interface StageDefinition {
  readonly name: string;
  readonly processingStatus: string;
  readonly doneStatus: string;
  readonly leaseMs: number;
  /** Longest time for one attempt, 0 for none. */
  readonly timeoutMs: number;
  readonly maxAttempts: number;
  readonly backoff: Backoff;
  /** Limits of runs that are ACTIVE in this stage at once, 0 for none. */
  readonly maxActive: number;
  readonly maxActivePerKey: number;
}

/** A pipeline as a user defines it, with every default filled in. */
export interface PipelineDefinition {
  readonly name: string;
  readonly description: string;
  readonly initialStatus: string;
  readonly errorStatus: string;
  readonly canceledStatus: string;
  readonly stages: readonly StageDefinition[];
  readonly schedules: readonly ScheduleDefinition[];
}

export interface Stage extends StageDefinition {
  /** The status in which runs wait for this stage: the initial status, or the done status of the stage before. */
  readonly waitingStatus: string;
  readonly paused: boolean;
}

/** A pipeline as it is stored. */
export interface Pipeline extends PipelineDefinition {
  readonly stages: readonly Stage[];
  readonly schedules: readonly Schedule[];
  readonly paused: boolean;
  /** How often the definition was put, from 1. */
  readonly generation: bigint;
  readonly createTime: Date;
  readonly updateTime: Date;
}

/** What one status of a pipeline stands for. The stage is empty where the state is terminal. */
export interface StatusMeaning {
  readonly status: string;
  readonly stage: string;
  readonly state: RunState;
}

/** The values a stage has when its definition leaves them out. */
export const STAGE_DEFAULTS = {
  leaseMs: 60_000,
  timeoutMs: 0,
  maxAttempts: 3,
  backoff: { initialMs: 1000, multiplier: 2, maxMs: 300_000, jitter: 0.2 },
  maxActive: 0,
  maxActivePerKey: 0,
} as const;

export const PIPELINE_DEFAULTS = {
  name: 'ci',
  initialStatus: 'new',
  errorStatus: 'error',
  canceledStatus: 'canceled',
} as const;

/** The status in which runs wait for stage `index`. */
export function waitingStatus(definition: PipelineDefinition, index: number): string {
  return index === 0 ? definition.initialStatus : (definition.stages[index - 1]?.doneStatus ?? '');
}

/**
 * Spells out what each status of a pipeline means: one row per status, in the order a run meets them. The
 * database keeps these rows, so that a writer of plain SQL gets the stage and state that belong to a status.
 */
export function statusMeanings(definition: PipelineDefinition): StatusMeaning[] {
  const rows: StatusMeaning[] = [];
  definition.stages.forEach((stage, index) => {
    rows.push({ status: waitingStatus(definition, index), stage: stage.name, state: 'PENDING' });
    rows.push({ status: stage.processingStatus, stage: stage.name, state: 'ACTIVE' });
  });
  const last = definition.stages.at(-1);
  if (last !== undefined) rows.push({ status: last.doneStatus, stage: '', state: 'SUCCEEDED' });
  rows.push({ status: definition.errorStatus, stage: '', state: 'FAILED' });
  rows.push({ status: definition.canceledStatus, stage: '', state: 'CANCELED' });
  return rows;
}

/** The statuses that the holder of a lease may report, in the order of the UpdateStatus rules. */
export function allowedStatuses(pipeline: PipelineDefinition, stageName: string): string[] {
  const index = pipeline.stages.findIndex((stage) => stage.name === stageName);
  const stage = pipeline.stages[index];
  if (stage === undefined) return [];
  return [
    stage.doneStatus,
    pipeline.errorStatus,
    pipeline.canceledStatus,
    waitingStatus(pipeline, index),
    stage.processingStatus,
  ];
}
