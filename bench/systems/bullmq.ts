/** BullMQ on its PostgreSQL backend, which keeps jobs as durably as the others here. */
import { inBatches, rate } from '../support/loops.js';
import { batches } from '../support/params.js';
import type { Open } from '../support/system.js';
import { loadPackage } from './package.js';

interface Queue {
  waitUntilReady(): Promise<unknown>;
  addBulk(jobs: readonly { name: string; data: object }[]): Promise<unknown>;
  close(): Promise<void>;
}

interface Worker {
  on(event: 'completed' | 'error', listener: (what: unknown) => void): void;
  run(): Promise<void>;
  close(): Promise<void>;
}

interface BullMq {
  createPostgresBackend: unknown;
  withBackend: (factory: unknown) => {
    Queue: new (name: string, options: object) => Queue;
    Worker: new (name: string, processor: () => Promise<void>, options: object) => Worker;
  };
}

const QUEUE = 'bench';
const JOB = { name: 'work', data: { repository: 'github.com/acme/shop', team: 'a', n: 1 } };
const CONCURRENCY = 100;

export const open: Open = async ({ databaseUrl }) => {
  const { createPostgresBackend, withBackend } = await loadPackage<BullMq>('bullmq');
  const { Queue, Worker } = withBackend(createPostgresBackend);
  const connection = { connectionString: databaseUrl, migrate: true };
  const queue = new Queue(QUEUE, { connection });
  await queue.waitUntilReady();

  return {
    operations: {
      createBatches: (params) =>
        inBatches(batches(params), async (size) => {
          await queue.addBulk(Array.from({ length: size }, () => JOB));
          return size;
        }),
      /** It fetches and completes job by job, with many under way. */
      async workBatches(params) {
        const { total } = batches(params);
        const worker = new Worker(QUEUE, () => Promise.resolve(), {
          connection,
          concurrency: CONCURRENCY,
          autorun: false,
        });
        let done = 0;
        const started = performance.now();
        await new Promise<void>((resolve, reject) => {
          worker.on('error', reject);
          worker.on('completed', () => {
            done += 1;
            if (done === total) resolve();
          });
          worker.run().catch(reject);
        });
        const counted = rate(done, started);
        await worker.close();
        return counted;
      },
    },
    close: () => queue.close(),
  };
};
