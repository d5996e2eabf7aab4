import { BatonError } from '../../src/base/errors.js';
import type { Run, RunEvent } from '../../src/run/run.js';
import type { JobService, PipelineService, WatchMessage, WatchStream } from '../../src/service/api.js';

/** A run with every field set, so that a conversion that forgets one is found out. */
export function sampleRun(overrides: Partial<Run> = {}): Run {
  return {
    id: '0190b0a0-0000-7000-8000-000000000001',
    pipeline: 'ci',
    stage: 'run',
    status: 'running',
    state: 'ACTIVE',
    repository: 'github.com/acme/shop',
    labels: { team: 'a' },
    input: { commit: 'abc', list: [1, { deep: null }] },
    output: { ok: true },
    error: { code: 'FLAKY', message: 'once more' },
    priority: 3,
    concurrencyKey: 'shop',
    attempt: 2,
    maxAttempts: 5,
    workerId: 'w1',
    leaseExpireTime: new Date(1_700_000_060_123),
    scheduleTime: new Date(1_700_000_000_000),
    cancelRequested: true,
    progress: 0.25,
    statusMessage: 'compiling',
    checkpoint: { step: 7 },
    version: 12n,
    createTime: new Date(1_700_000_000_001),
    updateTime: new Date(1_700_000_000_002),
    startTime: new Date(1_700_000_000_003),
    endTime: new Date(1_700_000_000_004),
    requestId: 'r1',
    traceParent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
    payloadOmitted: true,
    ...overrides,
  };
}

export function sampleEvent(revision: bigint, overrides: Partial<Run> = {}): RunEvent {
  return {
    revision,
    type: 'CLAIMED',
    previousStatus: 'initialized',
    previousStage: 'run',
    previousState: 'PENDING',
    run: sampleRun(overrides),
  };
}

export function message(overrides: Partial<WatchMessage> = {}): WatchMessage {
  return { kind: 'BOOKMARK', events: [], revision: 1n, resumeToken: 'e.1', payload: false, ...overrides };
}

export const OPENED = message({ kind: 'OPENED', revision: 0n, resumeToken: 'e.0' });

/** A job service whose calls are what a test gives; the others are not implemented. */
export function fakeJobs(calls: Partial<JobService> = {}): JobService {
  const missing = (): Promise<never> => Promise.reject(new BatonError('NOT_IMPLEMENTED', 'not in this test'));
  return {
    createRun: missing,
    batchCreateRuns: missing,
    getRun: missing,
    listRuns: missing,
    claimNext: missing,
    updateStatus: missing,
    batchUpdateStatus: missing,
    extendLeases: missing,
    cancelRun: missing,
    cancelRuns: missing,
    retryRun: missing,
    retryRuns: missing,
    listRunEvents: missing,
    watchRuns: missing,
    ...calls,
  };
}

export function fakePipelines(calls: Partial<PipelineService> = {}): PipelineService {
  const missing = (): Promise<never> => Promise.reject(new BatonError('NOT_IMPLEMENTED', 'not in this test'));
  return {
    putPipeline: missing,
    getPipeline: missing,
    listPipelines: missing,
    deletePipeline: missing,
    pausePipeline: missing,
    resumePipeline: missing,
    getStats: missing,
    ...calls,
  };
}

/** A stream that gives what a test pushes, or makes messages without end, and counts what was pulled. */
export class FakeStream implements WatchStream {
  pulls = 0;
  closed = false;
  readonly #queue: (WatchMessage | undefined | Error)[] = [];
  #waiting: (() => void) | undefined;

  constructor(private readonly endless?: () => WatchMessage) {}

  push(...items: (WatchMessage | undefined | Error)[]): this {
    this.#queue.push(...items);
    this.#waiting?.();
    return this;
  }

  async next(): Promise<WatchMessage | undefined> {
    this.pulls++;
    while (!this.closed && this.#queue.length === 0) {
      if (this.endless !== undefined) return this.endless();
      await new Promise<void>((resolve) => {
        this.#waiting = resolve;
      });
    }
    if (this.closed) return undefined;
    const item = this.#queue.shift();
    if (item instanceof Error) throw item;
    return item;
  }

  close(): void {
    this.closed = true;
    this.#waiting?.();
  }
}
