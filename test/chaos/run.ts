/**
 * The long proof of WatchRuns: `node dist/test/chaos/run.js --minutes 10 --seed 7`. Prints a table, and all of it as
 * one line of JSON with `--json`; `--faults 'kill server,drop notifications'` makes only these, `--faults none` none.
 */
import { parseArgs } from 'node:util';
import { findPostgres15 } from '../support/debian_cluster.js';
import { chooseSeed } from '../support/seed.js';
import { runChaos } from './harness.js';
import { ALL_KINDS } from './faults.js';
import { failuresOf, printReport } from './report.js';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: String(chooseSeed('random')) },
    faults: { type: 'string', default: ALL_KINDS.join() },
    json: { type: 'boolean', default: false },
  },
});
const minutes = Number(values.minutes);
const seed = Number(values.seed);
if (!(minutes > 0) || !Number.isInteger(seed)) throw new Error('--minutes and --seed take numbers');
const binDir = findPostgres15();
if (binDir === undefined) throw new Error('PostgreSQL 15 is not installed (apt-get install postgresql-15)');
console.log(`chaos for ${minutes} min, --seed ${seed}`);

const floors = {
  events: 5000 * minutes,
  commits: 2000 * minutes,
  compared: 30_000 * minutes,
  resumes: 40 * minutes,
  bookmarks: 100 * minutes,
};

const report = await runChaos({
  binDir,
  seed,
  durationMs: minutes * 60_000,
  pauseMs: 30_000,
  restMs: 80,
  kinds: values.faults.split(','),
  scale: 1,
  calmMs: 8000,
  gapMs: 1500,
  partitionRevisions: 4000,
  floors,
  say: (line) => console.log(line),
});
const json = (_: string, value: unknown): unknown => (typeof value === 'bigint' ? String(value) : value);
if (values.json) console.log(JSON.stringify(report, json));
console.log(printReport(report));
for (const detail of report.findings.details) console.log(detail);
// A pause of 30 s leaves a short run no time for everything.
const failures = failuresOf(report, floors, minutes >= 5 ? ALL_KINDS : []);
for (const failure of failures) console.log(`FAILED: ${failure}`);
console.log(failures.length === 0 ? 'nothing was lost, doubled or reordered' : `failed; --seed ${seed}`);
process.exit(failures.length === 0 ? 0 : 1);
