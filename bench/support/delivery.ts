import type { Context } from './bench.js';
import { Child } from './ipc.js';
import { median, type Measures } from './stats.js';
import type { Made, Received } from './tally.js';
import type { ServerUse } from './system.js';
import { wallClockMs } from './wall_clock.js';
import type { StreamClientArgs, StreamQuestion } from '../systems/stream_client.js';

/** What was made, and since when (by the wall clock) its delivery could be expected. */
export interface Change {
  readonly made: readonly Made[];
  readonly fromMs: number;
  /** How long each commit took, where there was one for each change. */
  readonly commitsMs?: readonly number[];
}

/** The shape of what Baton sent, which a limit has to send as well. */
export interface Shape {
  readonly bytesPerEvent: number;
  readonly eventsPerMessage: number;
}

/** For sources that know by themselves what to send. */
export const ANY_SHAPE: Shape = { bytesPerEvent: 0, eventsPerMessage: 0 };

/** A server that streams changes, and somebody who makes them. */
export interface Source {
  readonly protocol: StreamClientArgs['protocol'];
  readonly port: number;
  /** So many changes a second, as single changes. */
  steady(rate: number, seconds: number, shape: Shape): Promise<Change>;
  /** As many changes as quickly as it can. */
  burst(changes: number, shape: Shape): Promise<Change>;
  /** What the server has used. @param collect as in `UseQuestion` */
  use(collect: boolean): Promise<ServerUse>;
  stop(): Promise<void>;
}

export type OpenSource = (context: Context) => Promise<Source>;

export interface Load {
  readonly rate: number;
  readonly seconds: number;
  /** Changes made at once; 0 for a steady rate. */
  readonly burst: number;
}

/** Some streams of one source, in a process of their own. */
export class Streams {
  private constructor(
    private readonly source: Source,
    private readonly client: Child,
    readonly count: number,
    /** Of the server, for each stream, when nothing is sent. */
    readonly idleBytes: number,
  ) {}

  static async open(source: Source, streams: number, connections: number, stalled = 0): Promise<Streams> {
    const before = await source.use(true);
    const args: StreamClientArgs = {
      ...{ protocol: source.protocol, port: source.port, streams, stalled },
      connections: Math.min(connections, streams),
    };
    const client = new Child('systems/stream_client.js', args);
    await client.ask();
    const after = await source.use(true);
    return new Streams(source, client, streams, (after.rssBytes - before.rssBytes) / (streams + stalled));
  }

  /**
   * Makes changes and waits until all streams have them.
   *
   * @returns what it took, and the shape of what was sent
   * @throws Error when an event was lost, doubled or out of order
   */
  async deliver(load: Load, shape: Shape): Promise<{ measures: Measures; shape: Shape }> {
    const { source, client } = this;
    await client.ask({} satisfies StreamQuestion);
    const before = await source.use(false);
    const begunMs = wallClockMs();
    const { made, fromMs, commitsMs } =
      load.burst > 0
        ? await source.burst(load.burst, shape)
        : await source.steady(load.rate, load.seconds, shape);
    const madeMs = wallClockMs();
    const received = await client.ask<Received>({ made } satisfies StreamQuestion);
    const after = await source.use(false);
    const { deliveries, p50Ms, p99Ms, maxMs, lost, disordered } = received;
    if (lost !== 0 || disordered > 0)
      throw new Error(
        `${lost} of ${made.length * this.count} deliveries were lost, ${disordered} out of order`,
      );
    const cpuMicros = after.cpuMicros - before.cpuMicros;
    return {
      measures: {
        ...{ p50Ms, p99Ms, maxMs },
        ...(commitsMs && { commitP50Ms: median(commitsMs) }),
        // Below the rate where the machine was short of CPU.
        changesPerSecond: (made.length * 1000) / (madeMs - begunMs),
        deliveriesPerSecond: (deliveries * 1000) / (received.lastMs - fromMs),
        eventsPerMessage: deliveries / received.messages,
        cpuMicrosPerDelivery: cpuMicros / deliveries,
        cpuMicrosPerChange: cpuMicros / made.length,
        serverRssMiB: after.rssBytes / 2 ** 20,
      },
      shape: {
        bytesPerEvent: received.bytes / deliveries,
        eventsPerMessage: deliveries / received.messages,
      },
    };
  }

  end(): Promise<void> {
    return this.client.end();
  }
}
