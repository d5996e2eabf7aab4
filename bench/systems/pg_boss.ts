/** pg-boss, with its defaults. */
import { closedLoop } from '../support/loops.js';
import { param } from '../support/params.js';
import type { Open, Params } from '../support/system.js';
import { loadPackage } from './package.js';

interface Job {
  readonly id: string;
}

interface PgBoss {
  start(): Promise<unknown>;
  stop(options: { graceful: boolean }): Promise<void>;
  on(event: 'error', listener: (error: Error) => void): void;
  createQueue(name: string): Promise<void>;
  send(name: string, data: object): Promise<string | null>;
  insert(name: string, jobs: readonly object[]): Promise<unknown>;
  fetch(name: string, options?: { batchSize: number }): Promise<Job[]>;
  complete(name: string, id: string | string[]): Promise<unknown>;
}

const QUEUE = 'bench';
const FILL_BATCH = 1000;
const DATA = { repository: 'github.com/acme/shop', team: 'a', n: 1 };

export const open: Open = async ({ databaseUrl }) => {
  const { PgBoss } = await loadPackage<{ PgBoss: new (options: object) => PgBoss }>('pg-boss');
  const boss = new PgBoss({ connectionString: databaseUrl });
  boss.on('error', (error) => process.stderr.write(`pg-boss: ${error.message}\n`));
  await boss.start();
  await boss.createQueue(QUEUE);
  const load = (params: Params) => ({
    inFlight: param(params, 'inFlight'),
    seconds: param(params, 'seconds'),
  });

  return {
    operations: {
      async fill(params) {
        const runs = param(params, 'runs');
        for (let done = 0; done < runs; done += FILL_BATCH) {
          const length = Math.min(FILL_BATCH, runs - done);
          await boss.insert(
            QUEUE,
            Array.from({ length }, () => ({ data: DATA })),
          );
        }
        return { runs };
      },
      create: (params) =>
        closedLoop(load(params), async () => {
          await boss.send(QUEUE, DATA);
          return true;
        }),
      claimAndComplete: (params) =>
        closedLoop(load(params), async () => {
          const [job] = await boss.fetch(QUEUE);
          if (job === undefined) return false;
          await boss.complete(QUEUE, job.id);
          return true;
        }),
    },
    close: () => boss.stop({ graceful: false }),
  };
};
