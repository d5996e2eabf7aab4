/** pg-boss, with its defaults. */
import { closedLoop, inBatches } from '../support/loops.js';
import { batches, load } from '../support/params.js';
import type { Open } from '../support/system.js';
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
  complete(name: string, id: string | string[]): Promise<{ affected: number }>;
}

const QUEUE = 'bench';
const DATA = { repository: 'github.com/acme/shop', team: 'a', n: 1 };

export const open: Open = async ({ databaseUrl }) => {
  const { PgBoss } = await loadPackage<{ PgBoss: new (options: object) => PgBoss }>('pg-boss');
  const boss = new PgBoss({ connectionString: databaseUrl });
  boss.on('error', (error) => process.stderr.write(`pg-boss: ${error.message}\n`));
  await boss.start();
  await boss.createQueue(QUEUE);

  return {
    operations: {
      createBatches: (params) =>
        inBatches(batches(params), async (size) => {
          await boss.insert(
            QUEUE,
            Array.from({ length: size }, () => ({ data: DATA })),
          );
          return size;
        }),
      workBatches: (params) =>
        inBatches(batches(params), async (batchSize) => {
          const jobs = await boss.fetch(QUEUE, { batchSize });
          if (jobs.length === 0) return 0;
          const ids = jobs.map(({ id }) => id);
          const { affected } = await boss.complete(QUEUE, ids);
          if (affected !== ids.length) throw new Error(`${affected} of ${ids.length} jobs were completed`);
          return jobs.length;
        }),
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
