/**
 * The long proof of what workers are promised: `node dist/test/worker_chaos/run.js --minutes 10 --seed 7`. Prints a
 * table, and all of it as one line of JSON with `--json`; `--faults 'kill server,delay pool'` makes only these,
 * `--faults none` none.
 */
import { parseArgs } from 'node:util';
import { findPostgres15 } from '../support/debian_cluster.js';
import { chooseSeed } from '../support/seed.js';
import { ALL_KINDS, runWorkerChaos } from './harness.js';
import { failuresOf, printReport } from './report.js';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(chooseSeed('random')) },
    faults: { type: 'string', default: ALL_KINDS.join() },
    workers: { type: 'string', default: '20' },
    json: { type: 'boolean', default: false },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
const workers = Number(values.workers);
if (!(minutes > 0) || !Number.isInteger(seed) || !(workers > 0))
  throw new Error('--minutes, --seed and --workers take numbers');
const binDir = findPostgres15();
if (binDir === undefined) throw new Error('PostgreSQL 15 is not installed (apt-get install postgresql-15)');
console.log(`chaos of workers for ${minutes} min, --seed ${seed}`);

const kinds = values.faults.split(',');
const floors = {
  runs: 150 * minutes,
  claims: 300 * minutes,
  accepted: 300 * minutes,
  refused: 10 * minutes,
  swallowed: Math.ceil(minutes),
  workerFaults: 2 * minutes,
};

const report = await runWorkerChaos({
  binDir,
  seed,
  durationMs: minutes * 60_000,
  pauseMs: [5000, 15_000],
  kinds,
  scale: 1,
  calmMs: 8000,
  gapMs: 1500,
  workers,
  restMs: 250,
  floors,
  say: (line) => console.log(line),
});
if (values.json) console.log(JSON.stringify(report));
console.log(printReport(report));
for (const detail of report.details) console.log(detail);
const failures = failuresOf(report, minutes >= 5 ? kinds.filter((kind) => kind !== 'none') : []);
for (const failure of failures) console.log(`FAILED: ${failure}`);
console.log(failures.length === 0 ? 'every promise held' : `failed; --seed ${seed}`);
process.exit(failures.length === 0 ? 0 : 1);
