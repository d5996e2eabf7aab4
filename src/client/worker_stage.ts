import { durationMs } from '@bufbuild/protobuf/wkt';
import type { WorkerCalls } from './worker_calls.js';

const CALL_TIMEOUT_MS = 10_000;
const LEASE_DEFAULT_MS = 60_000;

/** What a worker has to know of its stage: the words with which it reports, and its times. */
export interface StageRules {
  readonly doneStatus: string;
  readonly waitingStatus: string;
  readonly errorStatus: string;
  readonly canceledStatus: string;
  readonly leaseMs: number;
  /** How long an attempt may last; infinite without a limit. */
  readonly timeoutMs: number;
}

/** The definition of the stage, fetched once, and again when a server no longer knows its words. */
export class StageDefinition {
  readonly #calls: WorkerCalls;
  readonly #pipeline: string;
  readonly #stage: string;
  #rules: StageRules | undefined;

  constructor(calls: WorkerCalls, pipeline: string, stage: string) {
    this.#calls = calls;
    this.#pipeline = pipeline;
    this.#stage = stage;
  }

  /** @throws Error before the first `load` */
  get rules(): StageRules {
    if (this.#rules === undefined) throw new Error('the definition of the stage was not loaded');
    return this.#rules;
  }

  /** @throws ConnectError of the call; Error when the pipeline has no such stage */
  async load(): Promise<StageRules> {
    const pipeline = await this.#calls.getPipeline(this.#pipeline, CALL_TIMEOUT_MS);
    const stage = pipeline?.stages.find(({ name }) => name === this.#stage);
    if (pipeline === undefined || stage === undefined)
      throw new Error(`pipeline ${this.#pipeline} has no stage ${this.#stage}`);
    return (this.#rules = {
      doneStatus: stage.doneStatus,
      waitingStatus: stage.waitingStatus,
      errorStatus: pipeline.errorStatus,
      canceledStatus: pipeline.canceledStatus,
      leaseMs: (stage.leaseDuration && durationMs(stage.leaseDuration)) || LEASE_DEFAULT_MS,
      timeoutMs: (stage.timeout && durationMs(stage.timeout)) || Number.POSITIVE_INFINITY,
    });
  }
}
