/**
 * The short version of the proof of WatchRuns: three quarters of a minute of traffic with every kind of fault, and what each stream
 * received against the true order of commits. `npm run chaos -- --minutes 10` is the long one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ALL_KINDS } from '../chaos/faults.js';
import { runChaos } from '../chaos/harness.js';
import { failuresOf, printReport } from '../chaos/report.js';
import { findPostgres15 } from '../support/debian_cluster.js';
import { seeded } from '../support/seed.js';

/** Below these the run has proved nothing. They are low, because other tests may have the machine's other core. */
const FLOORS = { events: 2000, commits: 800, compared: 10_000, resumes: 15, bookmarks: 30 };

const binDir = findPostgres15();
const missing = 'PostgreSQL 15 with test_decoding is not installed (apt-get install postgresql-15)';
const required = process.env['BATON_REQUIRE_ALL'] === '1';

void test(
  'no fault makes a stream lose, double or reorder an event',
  { skip: binDir === undefined && !required ? missing : false, timeout: 600_000 },
  () =>
    seeded(async (seed) => {
      if (binDir === undefined) throw new Error(missing);
      const report = await runChaos({
        binDir,
        seed,
        durationMs: 45_000,
        pauseMs: 8000,
        restMs: 60,
        kinds: ALL_KINDS,
        scale: 0.6,
        calmMs: 5000,
        gapMs: 400,
        partitionRevisions: 500,
        floors: FLOORS,
        say: (line) => console.log(line),
      });
      console.log(printReport(report));
      const failures = failuresOf(report, FLOORS, ALL_KINDS);
      assert.deepEqual([...failures, ...(failures.length === 0 ? [] : report.findings.details)], []);
    }),
);
