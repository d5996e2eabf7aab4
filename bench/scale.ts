/**
 * What happens when there is more of it: servers in front of one PostgreSQL under the same clients, and streams on one
 * server under the same changes. More servers must not lower the rate; more streams should make neither a delivery nor
 * a commit dearer.
 */
import { inTurns, valueOf, type Bench, type Context, type Turn } from './support/bench.js';
import { ANY_SHAPE, Streams } from './support/delivery.js';
import type { Measures } from './support/stats.js';
import { System } from './support/system.js';
import { batonSource } from './systems/baton_source.js';

const CALLS = { create: 'CreateRun', completeAndClaim: 'UpdateStatus + claim_next' };
const SERVERS = [1, 2, 4];
/** No cell claims more in a second, so the work does not run out. */
const FILL_PER_SECOND = 8000;
const WARM_UP = 0.3;
const CONNECTIONS = 100;

const serverRow = (servers: number, call: string): string =>
  `${servers} server${servers === 1 ? '' : 's'}: ${call}`;

function serversTurn(context: Context, servers: number): Turn {
  const { option } = context;
  return async () => {
    const system = await System.start(context, { client: 'baton', server: 'baton_server', servers });
    try {
      const load = { inFlight: option('in-flight'), seconds: option('seconds') };
      const total = Math.ceil(FILL_PER_SECOND * load.seconds * (1 + WARM_UP));
      await system.do('createBatches', { total, batch: 1000, inFlight: 2 });
      await system.settle();
      const rows: Record<string, Measures> = {};
      for (const operation of Object.keys(CALLS))
        await system.do(operation, { ...load, seconds: load.seconds * WARM_UP });
      for (const [operation, call] of Object.entries(CALLS))
        rows[serverRow(servers, call)] = await system.measure(operation, load);
      return rows;
    } finally {
      await system.stop();
    }
  };
}

const streamsRow = (streams: number, rate: number): string => `${streams} streams, ${rate}/s`;

function streamsTurn(context: Context, count: number): Turn {
  const { option } = context;
  return async () => {
    const source = await batonSource()(context);
    try {
      const streams = await Streams.open(source, count, CONNECTIONS);
      const load = { rate: option('rate'), seconds: option('seconds'), burst: 0 };
      await streams.deliver({ ...load, seconds: load.seconds * WARM_UP }, ANY_SHAPE);
      const { measures } = await streams.deliver(load, ANY_SHAPE);
      await streams.end();
      return { [streamsRow(count, load.rate)]: measures };
    } finally {
      await source.stop();
    }
  };
}

/** 1, 10, 100 and so on. */
function streamCounts(most: number): number[] {
  const counts: number[] = [];
  for (let count = 1; count <= most; count *= 10) counts.push(count);
  return counts;
}

export const bench: Bench = {
  options: {
    seconds: { full: 5, smoke: 0.3 },
    'in-flight': { full: 64, smoke: 64 },
    streams: { full: 10_000, smoke: 100 },
    rate: { full: 50, smoke: 20 },
  },
  async run(context) {
    const { option } = context;
    const counts = streamCounts(option('streams'));
    const rows = await inTurns(
      context,
      Object.fromEntries([
        ...SERVERS.map((servers) => [`servers: ${servers}`, serversTurn(context, servers)] as const),
        ...counts.map((count) => [`streams: ${count}`, streamsTurn(context, count)] as const),
      ]),
    );
    const rate = (servers: number, call: string): number =>
      valueOf(rows, serverRow(servers, call), 'perSecond');
    const grown = (measure: string, from: number, to: number): number =>
      valueOf(rows, streamsRow(to, option('rate')), measure) /
      valueOf(rows, streamsRow(from, option('rate')), measure);
    const most = counts.at(-1) ?? 1;
    return {
      rows,
      ratios: Object.fromEntries(
        counts.slice(1).flatMap((count): [string, number][] => [
          [`commit p50, ${count} streams / 1`, grown('commitP50Ms', 1, count)],
          [
            `server CPU per delivery, ${count} streams / ${count / 10}`,
            grown('cpuMicrosPerDelivery', count / 10, count),
          ],
        ]),
      ),
      goals: [
        ...Object.values(CALLS).flatMap((call) =>
          SERVERS.slice(1).map((servers) => ({
            text: `${call}: rate of ${servers} servers / 1`,
            value: rate(servers, call) / rate(1, call),
            atLeast: 1,
          })),
        ),
        {
          text: `server CPU per delivery, ${most} streams / ${most / 10}`,
          value: grown('cpuMicrosPerDelivery', most / 10, most),
          atMost: 1,
        },
      ],
      notes: [
        'The same clients, calls in flight and streams, in one process, whatever is in front of them; on a small machine more servers share the same cores.',
      ],
    };
  },
};
