/**
 * The long run of the fuzzer: `npm run fuzz -- --inputs 100000 --seed 7`. Each input depends on the seed and its number
 * alone: `--first 1234 --inputs 1` sends this one.
 */
import { parseArgs } from 'node:util';
import { startCluster } from '../../bench/support/cluster.js';
import { chooseSeed } from '../support/seed.js';
import { fuzz } from './harness.js';
import { BOUNDS, failuresOf, printReport } from './report.js';

const { values } = parseArgs({
  options: {
    inputs: { type: 'string', default: '10000' },
    first: { type: 'string', default: '0' },
    seed: { type: 'string', default: String(chooseSeed('random')) },
  },
});
const [inputs, first, seed] = [Number(values.inputs), Number(values.first), Number(values.seed)];
if (!Number.isInteger(inputs) || !Number.isInteger(first) || !Number.isInteger(seed))
  throw new Error('--inputs, --first and --seed take whole numbers');

const cluster = await startCluster({ fsync: 'off' });
try {
  const databaseUrl = await cluster.createDatabase();
  const report = await fuzz({ databaseUrl, seed, first, inputs, say: (line) => console.log(line) });
  console.log(printReport(report));
  const failures = failuresOf(report, BOUNDS);
  for (const failure of failures) console.log(`FAILED: ${failure}`);
  console.log(failures.length === 0 ? 'nothing was hurt' : `failed; --seed ${seed}`);
  process.exitCode = failures.length === 0 ? 0 : 1;
} finally {
  await cluster.stop();
}
// Connections of clients are given up in their own time.
process.exit();
