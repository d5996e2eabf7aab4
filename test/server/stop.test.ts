import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FaultProxy } from '../support/chaos_proxy.js';
import { describeOnPostgres } from '../support/database.js';
import { ANY_PORT, ServerProcess } from '../support/process.js';
import { startTestServer } from '../support/server.js';
import { assertTook, waitFor, within } from '../support/wait.js';

/** Its calls are broken off after 8 s, and its pools are closed at once, in 1 s. */
const SILENT_STOP_MS = 10_000;

describeOnPostgres('a stop', (open) => {
  void test('comes to an end although the database has gone silent', async () => {
    const database = await open();
    const { proxy, url } = await FaultProxy.before(database.url);
    const baton = await startTestServer(url);
    await baton.jobs.createRun({});
    proxy.mode = 'half-open';
    // Statements that will never be answered, more than there are connections, and what the server does by itself.
    const calls = Array.from({ length: 10 }, () =>
      baton.jobs.createRun({}).then(
        () => 'done',
        () => 'failed',
      ),
    );
    await waitFor(() => proxy.lostBytes > 0, 'the connection to have gone silent');
    const from = performance.now();
    await within(baton.stop(), 'the server to stop', 20_000);
    assertTook('a stop with a database that has gone silent', performance.now() - from, SILENT_STOP_MS);
    assert.ok((await Promise.all(calls)).every((outcome) => outcome === 'failed'));
    await proxy.close();
    await database.drop();
  });

  void test('lets the process end although idle connections have gone silent', async () => {
    const database = await open();
    const { proxy, url } = await FaultProxy.before(database.url);
    const server = new ServerProcess(['serve', ...ANY_PORT, '--no-listen', '--database-url', url]);
    try {
      await server.ready();
      const calls = Array.from({ length: 10 }, () => server.call('ListRuns', {}));
      assert.deepEqual(new Set((await Promise.all(calls)).map(({ status }) => status)), new Set([200]));
      const busy = `select from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'`;
      await waitFor(async () => (await database.pool.query(busy)).length === 0, 'the server to be quiet');
      // Nobody says anything over them now, and nobody will answer their goodbyes.
      proxy.mode = 'half-open';
      assert.equal(await server.end(), 0);
    } finally {
      server.child.kill('SIGKILL');
      await server.exited;
      await proxy.close();
      await database.drop();
    }
  });
});
