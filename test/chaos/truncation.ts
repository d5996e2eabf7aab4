import type { WatchRunsResponse } from '../../gen/baton/v1/job_service_pb.js';
import type { Retention } from '../../src/service/retention.js';
import { readHead } from '../../src/store/sql/read_head.js';
import type { Pool } from '../../src/store/pool.js';
import { GrpcJsClient } from '../support/rpc_grpc_client.js';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { waitFor } from '../support/wait.js';
import type { ChaosServer } from '../support/chaos_servers.js';
import { reasonOf } from './watcher.js';

/** How a stream fared that was reading old history when that was dropped. */
export interface TruncationReport {
  readonly oldestBefore: bigint;
  readonly oldestAfter: bigint;
  /** The revisions it was given, for the comparison with the truth. */
  readonly start: bigint;
  readonly revisions: readonly bigint[];
  /** Up to here it was told that it had everything. */
  readonly end: bigint;
  /** Why it ended; empty when it reached the head. */
  readonly reason: string;
}

/**
 * Lets a stream begin at the oldest revision, stops reading, drops history under it, and reads on. It has to get
 * everything or be told that it cannot.
 */
export async function truncateDuringCatchUp(
  pool: Pool,
  retention: Retention,
  server: ChaosServer,
  signal: AbortSignal,
): Promise<TruncationReport> {
  const before = await readHead(pool);
  const client = new GrpcJsClient(server.grpcAddress);
  try {
    const call = client.stream(JobService.method.watchRuns, {
      after: 'oldest',
      includePayload: true,
      bookmarkInterval: { seconds: 1n },
    });
    const messages: WatchRunsResponse[] = [];
    let ended = false;
    let reason = '';
    call.on('data', (message: WatchRunsResponse) => {
      messages.push(message);
      if (messages.length === 2) call.pause();
    });
    call.on('error', (error: unknown) => (reason = reasonOf(error)));
    call.on('close', () => (ended = true)).on('end', () => (ended = true));
    await waitFor(() => messages.length >= 2 || ended, 'a stream from the oldest revision to begin', 5000);
    await retention.sweep();
    const after = await readHead(pool);
    call.resume();
    const reached = (): boolean => (messages.at(-1)?.revision ?? 0n) >= after.revision;
    await waitFor(() => ended || reached() || signal.aborted, 'the stream to catch up or to end', 20_000);
    // The reason may follow the end by a moment.
    if (ended) await waitFor(() => reason !== '', 'the reason of the end', 1000).catch(() => undefined);
    call.cancel();
    return {
      oldestBefore: before.oldestRevision,
      oldestAfter: after.oldestRevision,
      start: messages[0]?.revision ?? 0n,
      revisions: messages.flatMap((message) => message.events.map((event) => event.revision)),
      end: messages.at(-1)?.revision ?? 0n,
      reason: reached() ? '' : reason,
    };
  } finally {
    client.close();
  }
}
