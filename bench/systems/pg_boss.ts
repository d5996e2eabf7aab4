/** pg-boss, with its defaults. */
import { claimLoop } from '../support/claim_loop.js';
import { closedLoop, inBatches } from '../support/loops.js';
import { batches, claimLoad, load } from '../support/params.js';
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

  const insert = (length: number): Promise<unknown> =>
    boss.insert(
      QUEUE,
      Array.from({ length }, () => ({ data: DATA })),
    );
  const complete = async (jobs: readonly Job[]): Promise<void> => {
    const ids = jobs.map(({ id }) => id);
    const { affected } = await boss.complete(QUEUE, ids);
    if (affected !== ids.length) throw new Error(`${affected} of ${ids.length} jobs were completed`);
  };

  return {
    operations: {
      createBatches: (params) =>
        inBatches(batches(params), async (size) => {
          await insert(size);
          return size;
        }),
      workBatches: (params) =>
        inBatches(batches(params), async (batchSize) => {
          const jobs = await boss.fetch(QUEUE, { batchSize });
          if (jobs.length > 0) await complete(jobs);
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
      claims: (params) =>
        claimLoop<Job>(claimLoad(params), {
          claim: async () => (await boss.fetch(QUEUE))[0],
          complete,
          create: insert,
        }),
    },
    close: () => boss.stop({ graceful: false }),
  };
};
