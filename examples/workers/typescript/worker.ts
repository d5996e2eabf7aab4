import { setTimeout as delay } from 'node:timers/promises';
import { FinalFailure, worker } from 'baton/client';

const builds = worker({
  baseUrl: process.env['BATON_URL'] ?? 'http://127.0.0.1:50051',
  stage: 'initialize',
  concurrency: 4,
  handler: async (run, { signal, progress }) => {
    if (run.repository === '') throw new FinalFailure('nothing to build', { code: 'NO_REPOSITORY' });
    progress(0.5, `building ${run.repository}`);
    await delay(1000, undefined, { signal }); // your work, which ends when the signal fires
    return { built: run.repository };
  },
});
process.once('SIGTERM', () => void builds.stop());
