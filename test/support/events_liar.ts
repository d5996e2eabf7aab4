import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { createRouterTransport, type Transport } from '@connectrpc/connect';
import {
  JobService,
  WatchKind,
  WatchRunsResponseSchema,
  type WatchRunsRequest,
} from '../../gen/baton/v1/job_service_pb.js';
import { EventType, RunEventSchema, type RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { RunSchema, RunState } from '../../gen/baton/v1/run_pb.js';

export type Reply = MessageInitShape<typeof WatchRunsResponseSchema>;

/** What a call of a made-up server gives: messages, then the error that ends it, if any. */
export interface Script {
  readonly messages: readonly Reply[];
  readonly error?: Error;
  /** Says nothing more after the messages, until the caller goes away. */
  readonly silent?: boolean;
}

/** A server that says what a test has written, one script for each call, and remembers what it was asked. */
export interface Liar {
  readonly transport: Transport;
  readonly requests: WatchRunsRequest[];
}

export function liar(...scripts: Script[]): Liar {
  const requests: WatchRunsRequest[] = [];
  const transport = createRouterTransport(({ service }) => {
    service(JobService, {
      async *watchRuns(request, { signal }) {
        requests.push(request);
        const script = scripts.shift();
        if (script === undefined) throw new Error('asked more often than the test expects');
        for (const message of script.messages) yield create(WatchRunsResponseSchema, message);
        if (script.silent === true)
          await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
        if (script.error !== undefined) throw script.error;
      },
    });
  });
  return { transport, requests };
}

export const tokenOf = (revision: bigint): string => `t${revision}`;

export function opened(revision: bigint, overrides: Reply = {}): Reply {
  return { kind: WatchKind.OPENED, revision, resumeToken: tokenOf(revision), ...overrides };
}

export function bookmark(revision: bigint, overrides: Reply = {}): Reply {
  return { kind: WatchKind.BOOKMARK, revision, resumeToken: tokenOf(revision), ...overrides };
}

/** Changes, with the revision of the last one unless the test says otherwise. */
export function changes(events: RunEvent[], overrides: Reply = {}): Reply {
  const revision = overrides.revision ?? events.at(-1)?.revision ?? 0n;
  return { kind: WatchKind.EVENTS, events, revision, resumeToken: tokenOf(revision), ...overrides };
}

export function state(revision: bigint, events: RunEvent[], overrides: Reply = {}): Reply {
  return { kind: WatchKind.STATE, events, revision, ...overrides };
}

export function stateEnd(revision: bigint, overrides: Reply = {}): Reply {
  return { kind: WatchKind.STATE_END, revision, resumeToken: tokenOf(revision), ...overrides };
}

/** One change of the run with this name. Version 1 is its creation. */
export function change(
  revision: bigint,
  id: string,
  version: bigint,
  runState: RunState = RunState.PENDING,
): RunEvent {
  const run = create(RunSchema, { id, version, state: runState });
  const type = version === 1n ? EventType.CREATED : EventType.UPDATED;
  return create(RunEventSchema, { revision, version, type, run });
}
