import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeOnEveryPostgres } from '../support/database.js';
import { startTestServer } from '../support/server.js';

const RUNS = 500;
const ROUNDS = 5;

describeOnEveryPostgres('batches of creates', (open) => {
  void test('two with the same request_ids in opposite order do not wait for each other in a circle', async () => {
    const database = await open();
    const servers = [await startTestServer(database.url), await startTestServer(database.url)];
    try {
      for (let round = 0; round < ROUNDS; round += 1) {
        const requests = Array.from({ length: RUNS }, (_, index) => ({ requestId: `${round}-${index}` }));
        const [there, back] = await Promise.all([
          servers[0]?.jobs.batchCreateRuns({ requests }),
          servers[1]?.jobs.batchCreateRuns({ requests: requests.toReversed() }),
        ]);
        assert.deepEqual(
          there?.runs.map(({ id }) => id),
          back?.runs.map(({ id }) => id).toReversed(),
        );
      }
      const [row] = await database.pool.query<{ deadlocks: number; runs: number }>(
        `select (select count(*)::int from baton.runs) as runs, deadlocks::int
         from pg_stat_database where datname = current_database()`,
      );
      assert.deepEqual(row, { runs: RUNS * ROUNDS, deadlocks: 0 });
    } finally {
      for (const server of servers) await server.stop();
      await database.drop();
    }
  });
});
