import { LIMITS } from '../base/limits.js';
import { SharedRead } from '../base/shared_read.js';
import type { Pool } from '../store/pool.js';
import { getStats, type StageCounts } from '../store/sql/get_stats.js';
import { getStatsFlow, type StageFlow } from '../store/sql/get_stats_flow.js';
import type { PipelineStats, StageStats } from './api.js';
import { pipelineNotFound } from './pipelines.js';
import { Checks } from './validate.js';

/** What "the last minute" of rates and percentiles is. */
const WINDOW_MS = 60_000;

function stageStats(counts: StageCounts, flow: StageFlow | undefined): StageStats {
  const perSecond = (count: bigint | undefined): number => Number(count ?? 0n) / (WINDOW_MS / 1000);
  return {
    stage: counts.stage,
    pendingCount: counts.pending,
    activeCount: counts.active,
    oldestWaitingMs: counts.oldestWaitingMs,
    claimsPerSecond: perSecond(flow?.claims),
    completionsPerSecond: perSecond(flow?.completions),
    waitP50Ms: flow?.waitP50Ms,
    waitP95Ms: flow?.waitP95Ms,
    paused: counts.paused,
  };
}

/** Puts the rows of stages together, which come in the order of the answer. */
function pipelineStats(counts: readonly StageCounts[], flows: readonly StageFlow[]): PipelineStats[] {
  const key = (of: { readonly pipeline: string; readonly stage: string }): string =>
    `${of.pipeline}/${of.stage}`;
  const flowOf = new Map(flows.map((flow) => [key(flow), flow]));
  const answer = new Map<string, PipelineStats & { readonly stages: StageStats[] }>();
  for (const row of counts) {
    const { pipeline, succeeded, failed, canceled } = row;
    const entry = answer.get(pipeline) ?? {
      pipeline,
      succeededCount: succeeded,
      failedCount: failed,
      canceledCount: canceled,
      stages: [],
    };
    entry.stages.push(stageStats(row, flowOf.get(key(row))));
    answer.set(pipeline, entry);
  }
  return [...answer.values()];
}

/**
 * Reads the figures of all pipelines, since counting one costs as much, and once for all who ask at the same time: however
 * many dashboards there are, a server counts the runs once at a time.
 */
export class Stats {
  readonly #pool: Pool;
  readonly #shared = new SharedRead<readonly PipelineStats[]>(() => this.#read());

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  /**
   * @param pipeline '' for all
   * @throws BatonError INVALID_ARGUMENT or PIPELINE_NOT_FOUND
   */
  async get(pipeline: string): Promise<readonly PipelineStats[]> {
    if (pipeline === '') return this.#shared.get();
    const found = new Checks();
    found.name('pipeline', pipeline);
    found.throwIfAny();
    const stats = (await this.#shared.get()).filter((entry) => entry.pipeline === pipeline);
    if (stats.length === 0) throw pipelineNotFound(pipeline);
    return stats;
  }

  /** Two statements of a snapshot each, so that no old one is held while the other is read. */
  #read(): Promise<PipelineStats[]> {
    return this.#pool.transaction(async (tx) => {
      // Ended by the database itself: a statement that was only given up here would go on there.
      await tx.query(`set local statement_timeout = ${LIMITS.statsTimeoutMs}`);
      const counts = await getStats(tx);
      return pipelineStats(counts, await getStatsFlow(tx, WINDOW_MS));
    });
  }
}
