/**
 * The short version of the proof of what workers are promised: a minute of work with every kind of fault, and what each
 * worker asked and was told against the true order of commits. `node dist/test/worker_chaos/run.js --minutes 10` is the
 * long one.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { findPostgres15 } from '../support/debian_cluster.js';
import { seeded } from '../support/seed.js';
import { ALL_KINDS, runWorkerChaos } from '../worker_chaos/harness.js';
import { failuresOf, printReport } from '../worker_chaos/report.js';

/** Below these the run has proved nothing. They are low, because other tests may have the machine's other core. */
const FLOORS = { runs: 100, claims: 200, accepted: 200, refused: 10, swallowed: 1, workerFaults: 3 };

const binDir = findPostgres15();
const missing = 'PostgreSQL 15 with test_decoding is not installed (apt-get install postgresql-15)';
const required = process.env['BATON_REQUIRE_ALL'] === '1';

void test(
  'no fault gives a run to two workers, loses one, or takes a change from a stale token',
  { skip: binDir === undefined && !required ? missing : false, timeout: 600_000 },
  () =>
    seeded(async (seed) => {
      if (binDir === undefined) throw new Error(missing);
      const report = await runWorkerChaos({
        binDir,
        seed,
        durationMs: 45_000,
        pauseMs: [5000, 8000],
        kinds: ALL_KINDS,
        scale: 0.6,
        calmMs: 5000,
        gapMs: 400,
        workers: 18,
        restMs: 200,
        floors: FLOORS,
        say: (line) => console.log(line),
      });
      console.log(printReport(report));
      const failures = failuresOf(report, ALL_KINDS);
      assert.deepEqual([...failures, ...(failures.length === 0 ? [] : report.details)], []);
    }),
);
