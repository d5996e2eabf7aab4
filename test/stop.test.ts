import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FaultProxy } from './support/chaos_proxy.js';
import { describeOnEveryPostgres } from './support/database.js';
import { startTestServer } from './support/server.js';
import { waitFor, within } from './support/wait.js';

describeOnEveryPostgres('a stop', (open) => {
  void test('comes to an end although the database has gone silent', async () => {
    const database = await open();
    const url = new URL(database.url);
    const proxy = await FaultProxy.start({ host: '127.0.0.1', port: Number(url.port) });
    url.port = String(proxy.port);
    const baton = await startTestServer(url.toString());
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
    await within(baton.stop(), 'the server to stop', 20_000);
    assert.ok((await Promise.all(calls)).every((outcome) => outcome === 'failed'));
    await proxy.close();
    await database.drop();
  });
});
