import assert from 'node:assert/strict';
import type { TestServer } from './server.js';
import { Watching } from './watching.js';

/** A life of runs, in all that is read and written on the way: times, numbers, texts, arrays with and without null. */
export async function liveThrough(baton: TestServer): Promise<void> {
  const { jobs, pipelines } = baton;
  const scheduleTime = { seconds: 1_893_456_000n, nanos: 123_000_000 };
  const requests = [
    { repository: 'NULL', labels: { a: '\\x41', ü: '"\\' }, input: { text: 'Zürich \\n €', n: 0.1 + 0.2 } },
    { repository: 'later', scheduleTime, requestId: 'one', priority: 9 },
  ];
  const { runs } = await jobs.batchCreateRuns({ requests });
  assert.deepEqual(runs[1]?.scheduleTime?.seconds, scheduleTime.seconds);
  const again = await jobs.batchCreateRuns({ requests: [requests[1]!] });
  assert.equal(again.runs[0]?.id, runs[1]?.id);
  const watching = new Watching(jobs, { after: 'oldest' });
  const { claims } = await jobs.claimNext({ stage: 'initialize', workerId: 'NULL', requestId: 'claim' });
  const [claim] = claims;
  assert.ok(claim?.run);
  const lease = Number(claim.leaseExpireTime?.seconds) * 1000 - Date.now();
  assert.ok(lease > 30_000 && lease < 90_000, `a lease of ${lease} ms`);
  const { leaseToken } = claim;
  await jobs.extendLeases({ leases: [{ runId: claim.run.id, leaseToken, progress: 0.123456789012 }] });
  const updated = await jobs.updateStatus({
    ...{ runId: claim.run.id, leaseToken, status: 'initialized', output: { '€': ['\\', 1e-7] } },
    claimNext: { stage: 'run', workerId: 'two' },
  });
  assert.equal(updated.claims[0]?.run?.id, claim.run.id);
  assert.deepEqual(updated.claims[0].run.output, { '€': ['\\', 1e-7] });
  const { run } = await jobs.getRun({ id: claim.run.id });
  assert.deepEqual(
    [run?.repository, run?.labels, run?.input],
    ['NULL', requests[0]?.labels, requests[0]?.input],
  );
  assert.ok(Math.abs(Number(run?.createTime?.seconds) - Date.now() / 1000) < 60, 'the time of creation');
  assert.equal((await jobs.listRuns({})).runs.length, 2);
  assert.equal((await jobs.listRunEvents({ runId: claim.run.id })).events.length, 5);
  await pipelines.putPipeline({
    pipeline: {
      name: 'other',
      stages: [
        {
          name: 'only',
          waitingStatus: 'waits',
          processingStatus: 'busy',
          doneStatus: 'done',
          backoff: { multiplier: 1.1, jitter: 0.1 },
        },
      ],
      schedules: [{ name: 'nightly', cron: '0 3 * * *', timeZone: 'Europe/Berlin' }],
    },
  });
  const { pipeline } = await pipelines.getPipeline({ name: 'other' });
  assert.equal(pipeline?.stages[0]?.backoff?.multiplier, 1.1);
  assert.ok(Number(pipeline.schedules[0]?.nextTime?.seconds) * 1000 > Date.now());
  assert.equal((await pipelines.getStats({ pipeline: 'ci' })).pipelines.length, 1);
  const canceled = await jobs.cancelRuns({ filter: { repository: 'later' } });
  assert.equal(Number(canceled.canceledCount), 1);
  await watching.hasEvents(7);
  await watching.cancel();
}
