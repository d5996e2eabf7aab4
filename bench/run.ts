/**
 * Runs one benchmark: `npm run bench -- <name> [--smoke] [--runs <n>] [--out <dir>] [--cpu-prof <dir>] [options of its own]`.
 *
 * Each starts a durable PostgreSQL of its own and measures Baton, its peers and its limits on it, in the same run, and
 * leaves nothing behind. Missed goals are printed and are no failure; only what did not work is.
 */
import { parseArgs } from 'node:util';
import type { Bench, Context } from './support/bench.js';
import { startCluster } from './support/cluster.js';
import { cleanUpNow } from './support/cleanup.js';
import { describeMachine, packageVersions, peersInstalled } from './support/machine.js';
import { formatReport, writeResults } from './support/output.js';

const BENCHES = ['unary', 'batch', 'latency', 'health', 'fanout', 'scale', 'hurt'] as const;
const RUNS = 3;

function load(name: string | undefined): Promise<{ bench: Bench }> {
  if (name === undefined || !BENCHES.some((known) => known === name))
    throw new Error(`npm run bench -- <name>, one of ${BENCHES.join(', ')}`);
  return import(`./${name}.js`) as Promise<{ bench: Bench }>;
}

function number(name: string, text: string | boolean | undefined, otherwise: number): number {
  if (text === undefined) return otherwise;
  const value = Number(text);
  if (!(value > 0)) throw new Error(`--${name} must be a positive number`);
  return value;
}

const [name, ...args] = process.argv.slice(2);
const { bench } = await load(name);
const { values } = parseArgs({
  args,
  options: {
    smoke: { type: 'boolean', default: false },
    runs: { type: 'string' },
    'cpu-prof': { type: 'string' },
    out: { type: 'string' },
    ...Object.fromEntries(Object.keys(bench.options).map((key) => [key, { type: 'string' as const }])),
    ...Object.fromEntries((bench.texts ?? []).map((key) => [key, { type: 'string' as const }])),
    ...Object.fromEntries(
      (bench.flags ?? []).map((key) => [key, { type: 'boolean' as const, default: false }]),
    ),
  },
}) as { values: Record<string, string | boolean | undefined> };
if (!peersInstalled()) throw new Error('the packages to compare with are missing: npm ci --prefix bench');

const smoke = values['smoke'] === true;
const own = Object.fromEntries(
  Object.entries(bench.options).map(([key, { full, smoke: little }]) => [
    key,
    number(key, values[key], smoke ? little : full),
  ]),
);
const flags = Object.fromEntries((bench.flags ?? []).map((key) => [key, values[key] === true]));
const runs = number('runs', values['runs'], smoke ? 1 : (bench.runs ?? RUNS));
const profile = values['cpu-prof'];
const out = values['out'] === undefined ? undefined : String(values['out']);
const machine = describeMachine();
const cluster = await startCluster(bench.settings);

let cleaning: Promise<void> | undefined;
const clean = (): Promise<void> => (cleaning ??= cleanUpNow().then(() => cluster.stop()));
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  // Not once: a second one would end the clean-up half way.
  process.on(signal, () => void clean().finally(() => process.exit(1)));

const context: Context = {
  ...{ cluster, smoke, runs },
  serverArgv: profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${String(profile)}`],
  option: (key) => own[key] ?? NaN,
  flag: (key) => flags[key] ?? false,
  text: (key) => String(values[key] ?? ''),
  progress: (text) => process.stderr.write(`${name}: ${text}\n`),
};
try {
  const report = await bench.run(context);
  const circumstances = {
    ...{ bench: String(name), smoke, options: { runs, ...own, ...flags }, machine },
    ...{ packages: packageVersions(), postgres: cluster.settings },
  };
  console.log(formatReport(circumstances, report));
  console.log(`results ${await writeResults(circumstances, report, out)}`);
} finally {
  await clean();
}
