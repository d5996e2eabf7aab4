/** graphile-worker. */
import { param } from '../support/params.js';
import { closedLoop, pause } from '../support/loops.js';
import type { Open, Params } from '../support/system.js';
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

interface GraphileWorker {
  Logger: new (factory: () => () => void) => object;
  makeWorkerUtils: (options: object) => Promise<Utils>;
  run: (options: object) => Promise<Runner>;
}

const FILL_BATCH = 1000;
const PAYLOAD = { repository: 'github.com/acme/shop', team: 'a', n: 1 };

export const open: Open = async ({ databaseUrl }) => {
  const { Logger, makeWorkerUtils, run } = await loadPackage<GraphileWorker>('graphile-worker');
  const logger = new Logger(() => () => undefined);
  const utils = await makeWorkerUtils({ connectionString: databaseUrl, logger });
  await utils.migrate();
  const addJobs = (length: number): Promise<unknown> =>
    utils.addJobs(Array.from({ length }, () => ({ identifier: 'work', payload: PAYLOAD })));

  return {
    operations: {
      async fill(params) {
        const runs = param(params, 'runs');
        for (let done = 0; done < runs; done += FILL_BATCH) await addJobs(Math.min(FILL_BATCH, runs - done));
        return { runs };
      },
      create: (params) =>
        closedLoop({ inFlight: param(params, 'inFlight'), seconds: param(params, 'seconds') }, async () => {
          await utils.addJob('work', PAYLOAD);
          return true;
        }),
      /** One job at a time: without the local queue, each job is claimed and completed by statements of its own. */
      async claimAndComplete(params: Params) {
        let calls = 0;
        const inFlight = param(params, 'inFlight');
        const runner = await run({
          preset: {
            // As many connections as its documentation recommends.
            worker: {
              connectionString: databaseUrl,
              concurrentJobs: inFlight,
              maxPoolSize: inFlight + 2,
              logger,
            },
          },
          noHandleSignals: true,
          taskList: { work: () => void (calls += 1) },
          parsedCronItems: [],
        });
        const started = performance.now();
        await pause(param(params, 'seconds') * 1000);
        const counted = { calls, perSecond: calls / ((performance.now() - started) / 1000) };
        await runner.stop();
        return counted;
      },
    },
    close: () => utils.release(),
  };
};
