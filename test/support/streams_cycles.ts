import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { Pool } from '../../src/store/pool.js';
import { CONNECT_OVER, type StreamClient, type Way } from './streams_clients.js';
import type { StreamsRig } from './streams_rig.js';
import { waitFor } from './wait.js';

export const STATES = ['idle', 'flowing', 'blocked'] as const;
export type State = (typeof STATES)[number];

/** How long a writer has to stand still to be taken for blocked. Too short only means a cancel while flowing. */
const BLOCKED_MS = 50;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes of the heap that are in use after everything that can go is gone. */
export async function heapBytes(): Promise<number> {
  for (let round = 0; round < 4; round += 1) {
    collect();
    // What was collected may hold the next thing by a finalizer or a close that is yet to come.
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage().heapUsed;
}

/** Runs whose message has so many characters. SQL may write longer ones than calls, so that few rows fill a socket. */
export async function insertRuns(db: Pool, count: number, messageChars = 0): Promise<void> {
  await db.query(
    `insert into baton.runs (repository, status_message)
     select 'streams', repeat('x', $2::int) from generate_series(1, $1::int)`,
    [count, messageChars],
  );
}

export async function revisions(db: Pool, after = 0n): Promise<bigint[]> {
  const rows = await db.query<{ revision: bigint }>(
    'select revision from baton.run_events where revision > $1::bigint order by revision',
    [after],
  );
  return rows.map((row) => row.revision);
}

/** Writes one run after the other until it is stopped, so that streams flow. */
export function startWriter(db: Pool): { stop(): Promise<void> } {
  const stopping = new AbortController();
  const run = async (): Promise<void> => {
    while (!stopping.signal.aborted) {
      await insertRuns(db, 1);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopping.abort();
      await running;
    },
  };
}

export interface CyclesResult {
  readonly cycles: number;
  /** The longest time from a cancel until nothing of its streams was left. */
  readonly longestMs: number;
  /** Streams that were blocked in a write when they were cancelled. */
  readonly blocked: number;
}

/** grpc-js reads ahead without bound whatever its user does: to block a stream takes a client that does not. */
const BLOCKING: Readonly<Record<Way, Way>> = {
  'gRPC by grpc-js': 'gRPC over raw h2',
  'gRPC over raw h2': 'gRPC over raw h2',
  'Connect over h2': 'Connect over h2',
  'Connect over HTTP/1.1': 'Connect over HTTP/1.1',
};

/** Opens and cancels streams, `width` at a time on one connection, in one state. */
export async function runCycles(
  rig: StreamsRig,
  way: Way,
  state: State,
  cycles: number,
  width: number,
): Promise<CyclesResult> {
  let [longestMs, blocked, done] = [0, 0, 0];
  for (; done < cycles; done += width) {
    const connection = CONNECT_OVER[state === 'blocked' ? BLOCKING[way] : way](rig);
    const request = state === 'blocked' ? { after: 'oldest' } : {};
    const streams = Array.from({ length: width }, () => connection.open(request, state === 'blocked'));
    await reached(rig, state, streams);
    blocked += rig.blocked(BLOCKED_MS / 2);
    const cancelled = performance.now();
    for (const stream of streams) stream.cancel();
    await rig.empty();
    longestMs = Math.max(longestMs, performance.now() - cancelled);
    await waitFor(() => streams.every((stream) => stream.end !== undefined), 'the clients to see the end');
    connection.close();
  }
  return { cycles: done, longestMs: Math.round(longestMs), blocked };
}

async function reached(rig: StreamsRig, state: State, streams: readonly StreamClient[]): Promise<void> {
  if (state === 'blocked') {
    const all = (): boolean => rig.blocked(BLOCKED_MS) === streams.length;
    return waitFor(all, 'all streams to be blocked', 20_000);
  }
  for (const stream of streams) {
    await stream.opened();
    if (state === 'flowing') await stream.hasEvents(1);
  }
}
