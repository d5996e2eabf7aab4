/**
 * The short run of the fuzzer: whatever is sent to a server, it answers, and nobody beside it notices.
 * `npm run fuzz -- --inputs 100000` is the long one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fuzz } from '../fuzz/harness.js';
import { METHODS } from '../fuzz/input.js';
import { BOUNDS, failuresOf, gapsOf, printReport } from '../fuzz/report.js';
import { describeOnEveryPostgres } from '../support/database.js';
import { seeded } from '../support/seed.js';
import { withSlack } from '../support/wait.js';

const INPUTS = 1500;
/** What an answer is depends on what is in the database by then, so a short run may miss some of forty. */
const GAPS_MAX = 4;

describeOnEveryPostgres('whatever is sent', (open) => {
  void test('hurts neither the server nor anybody beside it', { timeout: 300_000 }, () =>
    seeded(async (seed) => {
      const db = await open();
      // Each version of PostgreSQL has inputs of its own.
      const first = (db.version - 15) * INPUTS;
      const say = (line: string): void => console.log(line);
      const report = await fuzz({ databaseUrl: db.url, seed, first, inputs: INPUTS, say });
      console.log(printReport(report));
      const names = METHODS.map(({ name }) => name);
      const bounds = { p99Ms: withSlack(BOUNDS.p99Ms), stopMs: withSlack(BOUNDS.stopMs) };
      assert.deepEqual(failuresOf(report, bounds), []);
      const gaps = gapsOf(report, names);
      assert.ok(gaps.length <= GAPS_MAX, `this has tried too little: ${gaps.join(', ')}`);
      await db.drop();
    }),
  );
});
