import type { Context, Turn } from './bench.js';
import { Child } from './ipc.js';
import type { ServerArgs, ServerPlace, ServerUse } from './system.js';
import { Writer } from './writer.js';
import type { ClientArgs, ClientQuestion, ClientResult } from '../systems/watch_client.js';

/** Code is compiled and connections are warm after so long. */
const WARM_UP_SECONDS = 3;

export interface WatchLoad {
  readonly row: string;
  readonly streams: number;
  /** Streams that read nothing, beside the others. */
  readonly stalled: number;
  /** Runs inserted by SQL in a second, one a transaction. */
  readonly rate: number;
  readonly seconds: number;
  /** False for all notifications lost: the server polls. */
  readonly listen: boolean;
}

/**
 * From commit to the clients that watch. Server, clients and writer are three processes on one machine. The latency of
 * a delivery is the time from `run_events.append_time`, which is taken under the log's lock just before the commit, to
 * the moment the client has the bytes: it holds the commit itself with its fsync, the notification, the reading of the
 * log, the server, the kernel and the client's loop, and leaves out the transaction before its last step, the network
 * between machines and the full decoding in the client.
 *
 * Fails when an event was lost or came twice.
 */
export function watchDelivery({ cluster, serverArgv }: Context, load: WatchLoad): Turn {
  return async () => {
    const { row, streams, stalled, rate, seconds, listen } = load;
    const databaseUrl = await cluster.createDatabase();
    const args: ServerArgs = { databaseUrl, listen };
    const server = new Child('systems/baton_server.js', args, serverArgv);
    const { grpcPort } = await server.ask<ServerPlace>();
    const revisions = Math.ceil(rate * (seconds + WARM_UP_SECONDS) * 1.2) + 1000;
    const client = new Child('systems/watch_client.js', {
      ...{ grpcPort, databaseUrl, streams, stalled, revisions },
    } satisfies ClientArgs);
    await client.ask();
    const writer = await Writer.connect(databaseUrl);
    try {
      const from = await writer.write(rate, Math.min(WARM_UP_SECONDS, seconds));
      const before = await server.ask<ServerUse>({});
      const started = performance.now();
      const to = await writer.write(rate, seconds);
      const after = await server.ask<ServerUse>({});
      const elapsed = (performance.now() - started) / 1000;
      const result = await client.ask<ClientResult>({ from, to } satisfies ClientQuestion);
      const { lost, doubled, deliveries, p50Ms, p99Ms, maxMs } = result;
      if (lost > 0 || doubled > 0) throw new Error(`${row}: ${lost} events were lost, ${doubled} doubled`);
      const cpuMicros = after.cpuMicros - before.cpuMicros;
      return {
        [row]: {
          ...{ p50Ms, p99Ms, maxMs },
          // Below the rate when the machine was short of CPU.
          changesPerSecond: (to - from) / elapsed,
          deliveriesPerSecond: deliveries / elapsed,
          cpuMicrosPerDelivery: cpuMicros / deliveries,
          serverRssMiB: after.rssBytes / 2 ** 20,
          heldKiB: after.heldBytes / 1024,
        },
      };
    } finally {
      await writer.close();
      await client.end();
      await server.end();
      await cluster.dropDatabase(databaseUrl);
    }
  };
}
