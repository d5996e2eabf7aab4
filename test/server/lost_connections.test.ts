/**
 * A network that forgets connections tells nobody. Calls that come after it is well again must not wait for those whose
 * answers will never come.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as pause } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnEveryPostgresAtOnce, type Open } from '../support/database.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const SOON_MS = 10_000;
/** Then the timeout of a statement, which is 30 s, would have helped. */
const MOST_MS = 28_000;

/** Again while the database is said to be away, as long as anybody waits for it. */
async function retried<T>(call: () => Promise<T>): Promise<T> {
  const until = performance.now() + MOST_MS;
  for (;;) {
    try {
      return await call();
    } catch (error) {
      const isAway = error instanceof ConnectError && error.code === Code.Unavailable;
      if (!isAway || performance.now() > until) throw error;
      await pause(50);
    }
  }
}

async function opens({ jobs }: TestServer): Promise<WatchKind | undefined> {
  const leave = new AbortController();
  try {
    for await (const message of jobs.watchRuns({}, { signal: leave.signal })) return message.kind;
    return undefined;
  } finally {
    leave.abort();
  }
}

describeOnEveryPostgresAtOnce('connections to the database that are lost without a word', (open) => {
  void describe('by a server', { concurrency: true }, () => serverTests(open));
});

function serverTests(open: Open): void {
  for (const mode of ['half-open', 'drop-to-client', 'drop-to-server'] as const) {
    void test(`hold up neither calls nor streams that come later (${mode})`, async () => {
      const database = await open();
      const { proxy, url } = await FaultProxy.before(database.url);
      const baton = await startTestServer(url, { poolConnections: 10 });
      const { jobs } = baton;
      const calls: readonly (() => Promise<unknown>)[] = [
        () => jobs.createRun({}),
        () => jobs.listRuns({}),
        () => jobs.claimNext({ pipeline: 'ci', stage: 'initialize', workerId: 'w' }),
        () => opens(baton),
      ];
      const fiveOfEach = (): Promise<unknown>[] =>
        Array.from({ length: 5 }, () => calls.map((call) => call())).flat();
      try {
        await Promise.all(fiveOfEach());
        proxy.mode = mode;
        const caught = Promise.allSettled(fiveOfEach());
        await waitFor(() => proxy.lostBytes > 0, 'bytes to be lost');
        await pause(300);
        proxy.mode = 'pass';

        const [created, listed, , kind] = await within(
          Promise.all(calls.map(retried)),
          'calls after the network is well again',
          SOON_MS,
          MOST_MS,
        );
        assert.ok(created);
        assert.ok(listed);
        assert.equal(kind, WatchKind.OPENED);
        await within(caught, 'the calls whose connections were lost to end', SOON_MS, MOST_MS);
      } finally {
        await baton.stop();
        await proxy.close();
        await database.drop();
      }
    });
  }
}
