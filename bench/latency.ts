/**
 * How long a change takes from its commit to the clients that watch, and what a delivery costs the server.
 *
 *     node dist/bench/latency.js [--streams 1000] [--rate 500] [--seconds 20] [--runs 3]
 *                                [--no-listen | --stalled 50] [--cpu-prof <dir>]
 *
 * Server (with a durable PostgreSQL of its own), clients and writer are three processes on one machine, new for every
 * run. The latency of a delivery is the time from `run_events.append_time`, which is taken under the log's lock just
 * before the commit, to the moment the client has the bytes: it holds the commit itself with its fsync, the
 * notification, the reading of the log, the server, the kernel and the client's loop, and leaves out the transaction
 * before its last step, the network between machines and the full decoding in the client.
 *
 * `--no-listen` measures with all notifications lost: the server polls. `--stalled N` measures each run twice, without
 * and with N more streams that read nothing, and compares. Fails only when events were lost or doubled.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import type { ClientArgs, ClientQuestion, ClientResult } from './support/client_child.js';
import { Child } from './support/ipc.js';
import type { ServerArgs, ServerPlace, ServerUse } from './support/server_child.js';
import { Writer } from './support/writer.js';

/** Code is compiled and connections are warm after so long. */
const WARM_UP_SECONDS = 3;

const { values } = parseArgs({
  options: {
    streams: { type: 'string', default: '1000' },
    rate: { type: 'string', default: '500' },
    seconds: { type: 'string', default: '20' },
    runs: { type: 'string', default: '3' },
    'no-listen': { type: 'boolean', default: false },
    stalled: { type: 'string', default: '0' },
    'cpu-prof': { type: 'string' },
  },
});

const settings = {
  streams: Number(values.streams),
  rate: Number(values.rate),
  seconds: Number(values.seconds),
  runs: Number(values.runs),
  stalled: Number(values.stalled),
  listen: !values['no-listen'],
};

interface Measured {
  readonly stalled: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** What the writer got committed; below the rate when the machine was short of CPU. */
  readonly changesPerSecond: number;
  readonly deliveriesPerSecond: number;
  readonly serverCpuMicrosPerDelivery: number;
  readonly serverCpuCores: number;
  readonly serverRssMiB: number;
  readonly heldKiB: number;
  readonly lost: number;
  readonly doubled: number;
}

let postgresVersion = '';

async function measure(stalled: number): Promise<Measured> {
  const { streams, rate, seconds, listen } = settings;
  const dataDir = await mkdtemp(join(tmpdir(), 'baton-bench-'));
  // PostgreSQL may run as another user, which has to get in.
  await chmod(dataDir, 0o755);
  const profile = values['cpu-prof'];
  const execArgv = profile === undefined ? [] : ['--cpu-prof', `--cpu-prof-dir=${profile}`];
  const server = new Child('server_child.js', { dataDir, listen } satisfies ServerArgs, execArgv);
  try {
    const { grpcPort, databaseUrl } = await server.ask<ServerPlace>();
    const revisions = Math.ceil(rate * (seconds + WARM_UP_SECONDS) * 1.2) + 1000;
    const clientArgs: ClientArgs = { grpcPort, databaseUrl, streams, stalled, revisions };
    const client = new Child('client_child.js', clientArgs);
    const writer = await Writer.connect(databaseUrl);
    try {
      await client.ask();
      postgresVersion = await writer.version();
      const from = await writer.write(rate, WARM_UP_SECONDS);
      const before = await server.ask<ServerUse>({});
      const started = performance.now();
      const to = await writer.write(rate, seconds);
      const after = await server.ask<ServerUse>({});
      const elapsed = (performance.now() - started) / 1000;
      const result = await client.ask<ClientResult>({ from, to } satisfies ClientQuestion);
      const cpuMicros = after.cpuMicros - before.cpuMicros;
      return {
        ...{ stalled, p50Ms: result.p50, p99Ms: result.p99, maxMs: result.max },
        changesPerSecond: (to - from) / elapsed,
        deliveriesPerSecond: result.deliveries / elapsed,
        serverCpuMicrosPerDelivery: cpuMicros / result.deliveries,
        serverCpuCores: cpuMicros / elapsed / 1e6,
        serverRssMiB: after.rssBytes / 2 ** 20,
        heldKiB: after.heldBytes / 1024,
        ...{ lost: result.lost, doubled: result.doubled },
      };
    } finally {
      await writer.close();
      await client.end();
    }
  } finally {
    await server.end();
    await rm(dataDir, { recursive: true, force: true });
  }
}

function median(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

function medians(runs: readonly Measured[]): Record<string, number> {
  const keys = Object.keys(runs[0] ?? {}) as (keyof Measured)[];
  return Object.fromEntries(keys.map((key) => [key, rounded(median(runs.map((run) => run[key])))]));
}

const rounded = (value: number): number => Number(value.toPrecision(value < 100 ? 3 : 6));

const without: Measured[] = [];
const withStalled: Measured[] = [];
for (let run = 0; run < settings.runs; run += 1) {
  without.push(await measure(0));
  if (settings.stalled > 0) withStalled.push(await measure(settings.stalled));
}
const all = [...without, ...withStalled];
const table: Record<string, Record<string, number>> = {};
all.forEach((run, index) => {
  table[`run ${index + 1}`] = medians([run]);
});
table['median'] = medians(without);
if (withStalled.length > 0) table[`median, ${settings.stalled} stalled`] = medians(withStalled);
console.table(table);
const ratio = (key: keyof Measured): number =>
  rounded(median(withStalled.map((run) => run[key])) / median(without.map((run) => run[key])));
const machine = {
  ...{ cpu: cpus()[0]?.model, cores: cpus().length, memoryGiB: rounded(totalmem() / 2 ** 30) },
  ...{ node: process.version, postgres: postgresVersion, platform: process.platform },
};
const ratios =
  withStalled.length === 0 ? undefined : { p99: ratio('p99Ms'), serverRss: ratio('serverRssMiB') };
console.log(JSON.stringify({ date: new Date().toISOString(), settings, machine, table, ratios }));
if (all.some(({ lost, doubled }) => lost > 0 || doubled > 0)) {
  console.error('events were lost or doubled');
  process.exitCode = 1;
}
