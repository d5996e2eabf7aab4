/**
 * The third service of the example: prints each change of the runs that it watches, as it happens.
 *
 *     node dist/examples/ci/watch.js [--server 127.0.0.1:50051] [--label key=value] [--until-ended N]
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { timestampDate } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import type { RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { connect, type Jobs } from './client.js';

const BOOKMARK_S = 5;
/** A stream that brings neither changes nor bookmarks for so long is dead, whatever the connection says. */
const SILENCE_MAX_MS = 3 * BOOKMARK_S * 1000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 10_000;
/** Calling again would change nothing. All other ends of a stream are gone through by calling again. */
const PERMANENT: readonly Code[] = [
  Code.InvalidArgument,
  Code.NotFound,
  Code.OutOfRange,
  Code.FailedPrecondition,
  Code.Unimplemented,
  Code.Unauthenticated,
  Code.PermissionDenied,
];

/**
 * All changes of the runs with these labels from now on, each exactly once: after a lost stream it goes on from the
 * last resume token, on whichever server answers. `onOpen` is called with each stream's first revision.
 *
 * @throws ConnectError when another call would not help, or once `signal` is aborted
 */
async function* follow(
  jobs: Jobs,
  labels: Record<string, string>,
  signal: AbortSignal,
  onOpen: (revision: bigint) => void,
): AsyncGenerator<RunEvent> {
  let after = '';
  for (let retryMs = RETRY_FIRST_MS; ; retryMs = Math.min(2 * retryMs, RETRY_MAX_MS)) {
    const silence = new AbortController();
    const timer = setTimeout(() => silence.abort(), SILENCE_MAX_MS);
    try {
      const stream = jobs.watchRuns(
        { filter: { labels }, after, bookmarkInterval: { seconds: BigInt(BOOKMARK_S) } },
        { timeoutMs: 0, signal: AbortSignal.any([signal, silence.signal]) },
      );
      for await (const message of stream) {
        timer.refresh();
        retryMs = RETRY_FIRST_MS;
        if (message.kind === WatchKind.OPENED) onOpen(message.revision);
        yield* message.events;
        // Only now: what was not dealt with must come again.
        if (message.resumeToken !== '') after = message.resumeToken;
      }
    } catch (error) {
      const { code, rawMessage } = ConnectError.from(error);
      if (signal.aborted || PERMANENT.includes(code)) throw error;
      console.error(`the stream ended (${Code[code]}: ${rawMessage}), watching again`);
    } finally {
      clearTimeout(timer);
    }
    await sleep(retryMs * (0.5 + Math.random() / 2), undefined, { signal });
  }
}

const ENDED: readonly RunState[] = [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELED];

function lineOf({ revision, previousStatus, run }: RunEvent): string {
  if (run === undefined) throw new Error('an event has no run');
  const time = run.updateTime === undefined ? '' : timestampDate(run.updateTime).toISOString().slice(11, 23);
  const change = `${previousStatus || '(created)'} → ${run.status}`;
  return [time, `rev ${revision}`, run.id, change.padEnd(27), run.workerId, run.statusMessage]
    .join('  ')
    .trimEnd();
}

/** @returns the exit code */
async function main(): Promise<number> {
  const { values: flags } = parseArgs({
    options: {
      server: { type: 'string', default: '127.0.0.1:50051' },
      label: { type: 'string', multiple: true, default: [] },
      'until-ended': { type: 'string' },
    },
  });
  const labels: Record<string, string> = {};
  for (const label of flags.label) {
    const at = label.indexOf('=');
    if (at < 1) throw new Error(`--label ${label}: must be key=value`);
    labels[label.slice(0, at)] = label.slice(at + 1);
  }
  const wanted = Number(flags['until-ended'] ?? Infinity);
  if (!(wanted >= 1)) throw new Error('--until-ended must be a positive number');
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => stop.abort());

  const { jobs, close } = connect(flags.server);
  const ended = new Set<string>();
  const onOpen = (revision: bigint): void => console.log(`watching from revision ${revision}`);
  try {
    for await (const event of follow(jobs, labels, stop.signal, onOpen)) {
      console.log(lineOf(event));
      if (event.run !== undefined && ENDED.includes(event.run.state)) ended.add(event.run.id);
      if (ended.size >= wanted) return 0;
    }
  } catch (error) {
    if (!stop.signal.aborted) throw error;
  } finally {
    close();
  }
  return 0;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`watch: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
