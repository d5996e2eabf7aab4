/** Tokens over the wire: each works on every server, and none that was changed leads to another place. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Code } from '@connectrpc/connect';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { Watching } from '../support/watching.js';

/** One text for each character, which differs from the token in one bit of it. */
const flips = (token: string): string[] =>
  Array.from(token).map(
    (char, at) => token.slice(0, at) + String.fromCharCode(char.charCodeAt(0) ^ 1) + token.slice(at + 1),
  );

describeOnEveryPostgres('tokens over the wire', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let other: TestServer;

  before(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    other = await startTestServer(database.url);
  });

  after(async () => {
    await baton.stop();
    await other.stop();
    await database.drop();
  });

  const refused = async (field: string, call: Promise<unknown>): Promise<void> => {
    const { code, fields } = await failure(call);
    assert.equal(code, Code.InvalidArgument);
    assert.deepEqual(fields, [field]);
  };

  void test('a page token goes on on any server, and with one flipped bit nowhere', async () => {
    const made: string[] = [];
    for (let index = 0; index < 3; index++)
      made.unshift((await baton.jobs.createRun({ labels: { a: '1', b: '2' } })).run!.id);
    const stages = [{ name: 'one', processingStatus: 'doing', doneStatus: 'done' }];
    await baton.pipelines.putPipeline({ pipeline: { name: 'another', stages } });
    const runId = made[2]!;
    await baton.jobs.cancelRun({ runId });

    const runs = await baton.jobs.listRuns({ filter: { labels: { a: '1', b: '2' } }, pageSize: 1 });
    const history = await baton.jobs.listRunEvents({ runId, pageSize: 1 });
    const pipelines = await baton.pipelines.listPipelines({ pageSize: 1 });
    // The order of a map is the client's affair; that of Go's is another in each message.
    const nextRuns = (pageToken: string) =>
      other.jobs.listRuns({ filter: { labels: { b: '2', a: '1' } }, pageSize: 1, pageToken });
    const nextHistory = (pageToken: string) => other.jobs.listRunEvents({ runId, pageSize: 1, pageToken });
    const nextPipelines = (pageToken: string) => other.pipelines.listPipelines({ pageSize: 1, pageToken });

    assert.deepEqual(
      (await nextRuns(runs.nextPageToken)).runs.map((run) => run.id),
      [made[1]],
    );
    assert.equal((await nextHistory(history.nextPageToken)).events[0]?.run?.version, 2n);
    assert.equal((await nextPipelines(pipelines.nextPageToken)).pipelines[0]?.name, 'ci');
    for (const [next, token] of [
      [nextRuns, runs.nextPageToken],
      [nextHistory, history.nextPageToken],
      [nextPipelines, pipelines.nextPageToken],
    ] as const) {
      for (const text of flips(token)) await refused('page_token', next(text));
    }
    await refused('page_token', nextRuns(history.nextPageToken));
    await refused('page_token', nextHistory(runs.nextPageToken));
    await refused('page_token', nextPipelines(runs.nextPageToken));
  });

  void test('a resume token resumes on any server, and with one flipped bit nowhere', async () => {
    const { resumeToken } = await baton.jobs.listRuns({});
    for (const changed of flips(resumeToken)) {
      const watch = new Watching(other.jobs, { after: changed });
      await watch.end();
      await refused('after', Promise.reject(watch.error));
      assert.equal(watch.messages.length, 0);
    }
  });

  void test('a lease token holds on any server, and with one flipped bit no lease at all', async () => {
    await baton.jobs.createRun({});
    const { claims } = await baton.jobs.claimNext({ stage: 'initialize' });
    const { leaseToken } = claims[0]!;
    const report = (token: string) =>
      other.jobs.updateStatus({ runId: claims[0]!.run!.id, leaseToken: token, status: 'initialized' });
    for (const text of flips(leaseToken)) assert.equal((await failure(report(text))).reason, 'LEASE_LOST');
    assert.equal((await report(leaseToken)).run?.status, 'initialized');
  });
});
