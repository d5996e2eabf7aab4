import { batonSource } from '../systems/baton_source.js';
import type { Context, Turn } from './bench.js';
import { ANY_SHAPE, Streams } from './delivery.js';

/** Code is compiled and connections are warm after so long. */
const WARM_UP_SECONDS = 3;
const STREAMS_PER_CONNECTION = 100;

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
 */
export function watchDelivery(context: Context, load: WatchLoad): Turn {
  return async () => {
    const { row, streams: count, stalled, rate, seconds, listen } = load;
    const source = await batonSource(listen)(context);
    const connections = Math.ceil(count / STREAMS_PER_CONNECTION);
    const streams = await Streams.open(source, count, connections, stalled);
    try {
      await streams.deliver({ rate, seconds: Math.min(WARM_UP_SECONDS, seconds), burst: 0 }, ANY_SHAPE);
      const { measures } = await streams.deliver({ rate, seconds, burst: 0 }, ANY_SHAPE);
      return { [row]: measures };
    } finally {
      await streams.end();
      await source.stop();
    }
  };
}
