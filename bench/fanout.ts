/**
 * Many streams: what a change costs that everybody watches.
 *
 * Runs are inserted by SQL at several rates, and then as many as possible in one transaction; every stream gets every
 * change. Against the limit (node:http2 with bytes that were put together once, in messages of the sizes that Baton
 * sent in the same cell) and against etcd with as many watchers of one key.
 */
import { inTurns, valueOf, type Bench, type Context, type Goal, type Turn } from './support/bench.js';
import { Streams, type Load, type OpenSource, type Shape } from './support/delivery.js';
import type { Measures } from './support/stats.js';
import { batonSource } from './systems/baton_source.js';
import { etcdInstalled, etcdSource } from './systems/etcd_source.js';
import { rawHttp2Source } from './systems/raw_http2_source.js';

const BATON = 'Baton';
const CONNECTIONS = 100;
/** The first streams and changes of a server, which compile its code and are not measured. */
const WARM_UP = { streams: 10, rate: 100, seconds: 1 };
/** Below this many streams the memory of each is lost in that of everything else. */
const MEASURABLE_STREAMS = 100;

const SYSTEMS: Readonly<Record<string, OpenSource>> = {
  [BATON]: batonSource(),
  'raw http2': rawHttp2Source,
  ...(etcdInstalled ? { etcd: etcdSource } : {}),
};

type Cells = Readonly<Record<string, Load>>;

function streamCounts({ option }: Context): number[] {
  const most = option('streams');
  return [...new Set([1, most / 100, most / 10, most].map((count) => Math.max(1, Math.round(count))))];
}

/** What one machine's client can read; more would measure the client. */
function cells({ option }: Context, streams: number): Cells {
  const seconds = option('seconds');
  const rates = [10, 100, 1000].filter((rate) => rate * streams <= option('most-per-second'));
  const burst = Math.min(option('burst'), Math.floor(option('most-in-burst') / streams));
  return {
    ...Object.fromEntries(rates.map((rate) => [`${rate}/s`, { rate, seconds, burst: 0 }])),
    [`burst of ${burst}`]: { rate: 0, seconds: 0, burst },
  };
}

const rowOf = (system: string, streams: number, cell: string): string =>
  `${system}, ${streams} streams, ${cell}`;

/** What the turns tell each other. */
interface Shared {
  /** What Baton sent in each cell, which the others imitate. */
  readonly shapes: Map<string, Shape>;
  readonly notes: string[];
}

function turn(
  context: Context,
  system: string,
  open: OpenSource,
  count: number,
  { shapes, notes }: Shared,
): Turn {
  return async () => {
    const source = await open(context);
    const anyShape = { bytesPerEvent: 250, eventsPerMessage: 1 };
    try {
      const warm = await Streams.open(source, WARM_UP.streams, CONNECTIONS);
      const seconds = Math.min(WARM_UP.seconds, context.option('seconds'));
      await warm.deliver({ rate: WARM_UP.rate, seconds, burst: 0 }, anyShape);
      await warm.end();
      const streams = await Streams.open(source, count, CONNECTIONS);
      try {
        const rows: Record<string, Measures> = {};
        for (const [cell, load] of Object.entries(cells(context, count))) {
          const key = `${count}, ${cell}`;
          context.progress(`${system}, ${key}`);
          const delivered = streams.deliver(load, shapes.get(key) ?? anyShape);
          if (system === BATON) shapes.set(key, (await delivered).shape);
          // What a peer cannot do is a result too, and leaves it in no state to go on.
          const failure = await delivered.then(() => undefined, String);
          if (failure !== undefined) {
            notes.push(`${rowOf(system, count, cell)}: ${failure}; no row`);
            break;
          }
          const idle = count < MEASURABLE_STREAMS ? {} : { idleKiBPerStream: streams.idleBytes / 1024 };
          rows[rowOf(system, count, cell)] = { ...(await delivered).measures, ...idle };
        }
        return rows;
      } finally {
        await streams.end();
      }
    } finally {
      await source.stop();
    }
  };
}

export const bench: Bench = {
  options: {
    streams: { full: 10_000, smoke: 100 },
    seconds: { full: 5, smoke: 0.2 },
    burst: { full: 10_000, smoke: 200 },
    'most-per-second': { full: 1_000_000, smoke: 10_000 },
    'most-in-burst': { full: 10_000_000, smoke: 20_000 },
  },
  async run(context) {
    const { option } = context;
    const counts = streamCounts(context);
    const shared: Shared = { shapes: new Map(), notes: [] };
    const turns = counts.flatMap((count) =>
      Object.entries(SYSTEMS).map(
        ([system, open]) => [`${system}, ${count}`, turn(context, system, open, count, shared)] as const,
      ),
    );
    const rows = await inTurns(context, Object.fromEntries(turns));
    const burstRow = (system: string, count: number): string =>
      rowOf(system, count, Object.keys(cells(context, count)).at(-1) ?? '');
    const cpu = (system: string, count: number): number =>
      valueOf(rows, burstRow(system, count), 'cpuMicrosPerDelivery');
    const most = counts.at(-1) ?? 1;
    const many = counts.at(-2) ?? 1;
    const others = Object.keys(SYSTEMS).slice(1);
    const goals: Goal[] = [
      { text: `server CPU per delivery in µs, burst to ${many} streams`, value: cpu(BATON, many), atMost: 1 },
      {
        text: `KiB per idle stream at ${most} streams`,
        value: valueOf(rows, burstRow(BATON, most), 'idleKiBPerStream'),
        atMost: 20,
      },
      { text: 'streams that got every change', value: most, atLeast: option('streams') },
    ];
    return {
      rows,
      ratios: Object.fromEntries(
        counts.flatMap((count) =>
          others
            .filter((other) => rows[burstRow(other, count)] !== undefined)
            .map((other): [string, number] => [
              `server CPU per delivery, burst to ${count} streams: Baton / ${other}`,
              cpu(BATON, count) / cpu(other, count),
            ]),
        ),
      ),
      goals,
      notes: [
        'p50Ms and p99Ms of Baton count from just before the commit, of raw http2 from the write, of etcd from the start of the put. etcd makes one change per put, so its burst takes as long as its puts.',
        `Cells of more than ${option('most-per-second')} deliveries a second are left out, and bursts are cut to ${option('most-in-burst')} deliveries: the one client could not read more.`,
        ...shared.notes,
        ...(etcdInstalled
          ? []
          : ['etcd is not installed (apt-get install etcd-server): its rows are missing.']),
      ],
    };
  },
};
