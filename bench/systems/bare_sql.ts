/**
 * Baton's own statements, called with arrays from one process: what the database and `pg` allow, without gRPC, checks
 * and a server between.
 */
import { createLogger } from '../../src/base/log.js';
import { STAGE_DEFAULTS, type PipelineDefinition } from '../../src/run/pipeline.js';
import { decodeLeaseToken } from '../../src/store/lease_token.js';
import { migrate } from '../../src/store/migrate.js';
import { createPool } from '../../src/store/pool.js';
import { claimRuns } from '../../src/store/sql/claim_runs.js';
import { putPipeline } from '../../src/store/sql/put_pipeline.js';
import { createRuns } from '../../src/store/sql/create_runs.js';
import { updateRuns } from '../../src/store/sql/update_runs.js';
import { inBatches } from '../support/loops.js';
import { batches } from '../support/params.js';
import type { Open } from '../support/system.js';
import { PIPELINE } from './baton_calls.js';

const definition: PipelineDefinition = {
  ...PIPELINE,
  description: '',
  schedules: [],
  stages: [
    {
      ...STAGE_DEFAULTS,
      ...{ name: 'work', processingStatus: 'working', doneStatus: 'done', leaseMs: 3_600_000 },
    },
  ],
};

const UNSET = {
  ...{
    output: undefined,
    errorCode: undefined,
    errorMessage: undefined,
    retryable: false,
    checkpoint: undefined,
  },
  ...{ retryDelayMs: undefined, progress: undefined, statusMessage: undefined },
};

export const open: Open = async ({ databaseUrl }) => {
  const log = createLogger('error');
  await migrate({ databaseUrl, log });
  const pool = createPool({ databaseUrl, connections: 10, log });
  await pool.transaction((tx) => putPipeline(tx, definition));
  return {
    operations: {
      createBatches: (params) =>
        inBatches(batches(params), async (size) => {
          const runs = Array.from({ length: size }, () => ({
            pipeline: 'bench',
            repository: 'github.com/acme/shop',
            labels: { team: 'a' },
            input: JSON.stringify({ n: 1 }),
            priority: 0,
            scheduleTime: undefined,
            concurrencyKey: '',
            maxAttempts: 0,
            requestId: '',
            requestHash: undefined,
            traceParent: '',
          }));
          return (await createRuns(pool, runs)).size;
        }),
      workBatches: (params) =>
        inBatches(batches(params), async (maxRuns) => {
          const slots = [{ workerId: 'bench', leaseMs: 0, maxRuns }];
          const { claims } = await claimRuns(pool, { pipeline: 'bench', stage: 'work', slots: slots });
          const updates = (claims[0] ?? []).map(({ run, leaseToken }) => {
            const lease = decodeLeaseToken(leaseToken);
            if (lease === undefined) throw new Error('a claim without a lease');
            return { ...UNSET, runId: run.id, lease, status: 'done' };
          });
          const done = await updateRuns(pool, updates);
          return done.filter((run) => run !== undefined).length;
        }),
    },
    close: () => pool.close(),
  };
};
