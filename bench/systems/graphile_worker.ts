/** graphile-worker, with a local queue and batched completion where it works in batches. */
import { EventEmitter } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { claimMeasures, REPLACED } from '../support/claim_loop.js';
import { closedLoop, inBatches, pause, rate } from '../support/loops.js';
import { OpenLoop } from '../support/open_loop.js';
import { batches, claimLoad, load, param, schedule } from '../support/params.js';
import type { Open } from '../support/system.js';
import { loadPackage } from './package.js';

interface Utils {
  migrate(): Promise<void>;
  release(): Promise<void>;
  addJob(task: string, payload: object): Promise<unknown>;
  addJobs(jobs: readonly { identifier: string; payload: object }[]): Promise<unknown>;
}

interface Runner {
  stop(): Promise<void>;
}

interface WorkerEvent {
  readonly worker: { readonly workerId: string };
}

interface GraphileWorker {
  Logger: new (factory: () => () => void) => object;
  makeWorkerUtils: (options: object) => Promise<Utils>;
  run: (options: object) => Promise<Runner>;
}

const PAYLOAD = { repository: 'github.com/acme/shop', team: 'a', n: 1 };
/** As in graphile-worker's own performance test. */
const BATCH_CONCURRENCY = 24;

const inBatchesOf = (size: number): object => ({
  localQueue: { size },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
});

export const open: Open = async ({ databaseUrl }) => {
  const { Logger, makeWorkerUtils, run } = await loadPackage<GraphileWorker>('graphile-worker');
  const logger = new Logger(() => () => undefined);
  const utils = await makeWorkerUtils({ connectionString: databaseUrl, logger });
  await utils.migrate();
  const addJobs = (length: number): Promise<unknown> =>
    utils.addJobs(Array.from({ length }, () => ({ identifier: 'work', payload: PAYLOAD })));
  const work = (
    concurrentJobs: number,
    task: (payload: unknown) => void,
    more: object = {},
  ): Promise<Runner> =>
    run({
      preset: {
        worker: {
          connectionString: databaseUrl,
          concurrentJobs,
          // As many connections as its documentation recommends.
          maxPoolSize: concurrentJobs + 2,
          logger,
          ...more,
        },
      },
      noHandleSignals: true,
      taskList: { work: task },
      parsedCronItems: [],
    });

  return {
    operations: {
      createBatches: (params) =>
        inBatches(batches(params), async (size) => {
          await addJobs(size);
          return size;
        }),
      async workBatches(params) {
        const { total, batch } = batches(params);
        let done = 0;
        const started = performance.now();
        await new Promise<void>((resolve, reject) => {
          const task = (): void => {
            done += 1;
            // Stopping waits for the completions that are under way.
            if (done === total) runner.then((it) => it.stop()).then(resolve, reject);
          };
          const runner = work(BATCH_CONCURRENCY, task, inBatchesOf(batch));
          runner.catch(reject);
        });
        return rate(done, started);
      },
      create: (params) =>
        closedLoop(load(params), async () => {
          await utils.addJob('work', PAYLOAD);
          return true;
        }),
      /** One job at a time: without the local queue, each job is claimed and completed by statements of its own. */
      async claimAndComplete(params) {
        let done = 0;
        const runner = await work(param(params, 'inFlight'), () => void (done += 1));
        const started = performance.now();
        await pause(param(params, 'seconds') * 1000);
        const counted = rate(done, started);
        await runner.stop();
        return counted;
      },
      /** Its workers claim job by job, and tell when they begin to and when they have one. */
      async claims(params) {
        const { inFlight, claims, seconds } = claimLoad(params);
        const events = new EventEmitter();
        const since = new Map<string, number>();
        const times: number[] = [];
        const started = performance.now();
        const over = new Promise<void>((resolve, reject) => {
          events.on('worker:getJob:start', ({ worker }: WorkerEvent) => {
            since.set(worker.workerId, performance.now());
          });
          events.on('job:start', ({ worker }: WorkerEvent) => {
            times.push(performance.now() - (since.get(worker.workerId) ?? started));
            if (times.length % REPLACED === 0) addJobs(REPLACED).catch(reject);
            if (times.length === claims) resolve();
          });
        });
        const timer = new AbortController();
        const runner = await work(inFlight, () => undefined, { events, completeJobBatchDelay: 0 });
        try {
          await Promise.race([over, delay(seconds * 1000, undefined, { signal: timer.signal })]);
          return claimMeasures([...times], started);
        } finally {
          timer.abort();
          await runner.stop();
          // Workers went on until they were stopped.
          await addJobs(times.length % REPLACED);
        }
      },
      /** From addJob to the start of its task; with a local queue of `localQueue` jobs, without one where that is 0. */
      async createToClaim(params) {
        const loop = new OpenLoop(schedule(params));
        const localQueue = param(params, 'localQueue');
        const task = (payload: unknown): void => loop.arrived((payload as { index: number }).index);
        const more = localQueue > 0 ? inBatchesOf(localQueue) : {};
        const runner = await work(param(params, 'workers'), task, more);
        const measured = await loop.run((index) => utils.addJob('work', { index }));
        await runner.stop();
        return measured;
      },
    },
    close: () => utils.release(),
  };
};
