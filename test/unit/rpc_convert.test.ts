import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create, equals, fromBinary, toBinary, toJson, type MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import {
  BatchCreateRunsRequestSchema,
  ClaimNextRequestSchema,
  CreateRunRequestSchema,
  UpdateStatusRequestSchema,
  WatchKind,
  WatchRunsRequestSchema,
  WatchRunsResponseSchema,
  type WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import { PipelineSchema } from '../../gen/baton/v1/pipeline_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import { RunSchema, RunState } from '../../gen/baton/v1/run_pb.js';
import { BatonError } from '../../src/base/errors.js';
import { pipelineFromProto, pipelineToProto } from '../../src/rpc/convert/pipeline.js';
import * as requests from '../../src/rpc/convert/requests.js';
import { runToProto } from '../../src/rpc/convert/run.js';
import { converting } from '../../src/rpc/convert/violations.js';
import { encodeCounts, frameWatchMessage, watchMessageToProto } from '../../src/rpc/convert/watch.js';
import { message, sampleEvent, sampleRun } from '../support/rpc_fake.js';

test('a run keeps every field on its way to JSON', () => {
  const json = toJson(RunSchema, runToProto(sampleRun())) as Record<string, unknown>;
  assert.equal(Object.keys(json).length, RunSchema.fields.length, 'no field is left out');
  assert.deepEqual(json['input'], { commit: 'abc', list: [1, { deep: null }] });
  assert.equal(json['state'], 'RUN_STATE_ACTIVE');
  assert.equal(json['leaseExpireTime'], '2023-11-14T22:14:20.123Z');
  assert.equal(json['version'], '12');
  const bare = runToProto(sampleRun(), false);
  assert.deepEqual([bare.input, bare.output, bare.checkpoint], [undefined, undefined, undefined]);
});

test('a run is a message that the library can read, whatever of it is set', () => {
  const unset = undefined;
  const sparse = sampleRun({
    ...{ input: unset, output: unset, error: unset, checkpoint: unset, leaseExpireTime: unset },
    ...{ scheduleTime: unset, startTime: unset, endTime: unset, labels: {} },
  });
  for (const run of [sampleRun(), sparse]) {
    const made = runToProto(run);
    const decoded = fromBinary(RunSchema, toBinary(RunSchema, made));
    assert.ok(equals(RunSchema, made, decoded));
    assert.deepEqual(toJson(RunSchema, made), toJson(RunSchema, decoded));
  }
});

test('a create request keeps every field, and an empty one is all defaults', () => {
  const proto = create(CreateRunRequestSchema, {
    ...{ pipeline: 'p', repository: 'r', labels: { a: 'b' }, input: { x: 1 }, priority: 4 },
    ...{
      scheduleTime: timestampFromMs(1234),
      concurrencyKey: 'k',
      maxAttempts: 7,
      requestId: 'q',
      traceParent: 't',
    },
  });
  assert.deepEqual(
    converting((v) => requests.createRunFromProto(proto, '', v)),
    {
      ...{ pipeline: 'p', repository: 'r', labels: { a: 'b' }, input: { x: 1 }, priority: 4 },
      ...{
        scheduleTime: new Date(1234),
        concurrencyKey: 'k',
        maxAttempts: 7,
        requestId: 'q',
        traceParent: 't',
      },
    },
  );
  assert.deepEqual(
    converting((v) => requests.createRunFromProto(create(CreateRunRequestSchema), '', v)),
    {
      ...{ pipeline: '', repository: '', labels: {}, input: undefined, priority: 0, scheduleTime: undefined },
      ...{ concurrencyKey: '', maxAttempts: 0, requestId: '', traceParent: '' },
    },
  );
});

test('durations round up to whole milliseconds, so that little is not taken for none', () => {
  const claim = (wait: MessageInitShape<typeof ClaimNextRequestSchema>['wait']): number =>
    converting((v) => requests.claimNextFromProto(create(ClaimNextRequestSchema, { wait }), '', v)).waitMs;
  assert.equal(claim({ seconds: 2n, nanos: 500_000_000 }), 2500);
  assert.equal(claim({ seconds: 0n, nanos: 1 }), 1);
  assert.equal(claim(undefined), 0);
});

test('all values that the domain cannot hold are named with their paths', () => {
  const batch = create(BatchCreateRunsRequestSchema, {
    requests: [
      {},
      { input: { a: [0, { b: NaN }] }, scheduleTime: { seconds: 300_000_000_000n, nanos: 0 } },
      { scheduleTime: { seconds: 0n, nanos: -1 } },
    ],
  });
  // NaN passes binary protobuf, which is how it gets here.
  const parsed = fromBinary(BatchCreateRunsRequestSchema, toBinary(BatchCreateRunsRequestSchema, batch));
  assert.deepEqual(
    fieldsOf(() => converting((v) => requests.batchCreateFromProto(parsed, v))),
    ['requests[1].input.a[1].b', 'requests[1].schedule_time', 'requests[2].schedule_time'],
  );
  const update = create(UpdateStatusRequestSchema, {
    progress: Infinity,
    error: { retryDelay: { seconds: -1n } },
    claimNext: { wait: { seconds: 0n, nanos: -5 }, leaseDuration: { seconds: 400_000_000_000n } },
  });
  assert.deepEqual(
    fieldsOf(() => converting((v) => requests.updateStatusFromProto(update, '', v))),
    ['error.retry_delay', 'progress', 'claim_next.wait', 'claim_next.lease_duration'],
  );
  const watch = create(WatchRunsRequestSchema, {
    filter: { states: [RunState.ACTIVE, RunState.UNSPECIFIED, 99 as RunState] },
    bookmarkInterval: { seconds: -1n },
  });
  assert.deepEqual(
    fieldsOf(() => converting((v) => requests.watchRunsFromProto(watch, v))),
    ['filter.states[1]', 'filter.states[2]', 'bookmark_interval'],
  );
});

test('a pipeline gets its defaults, keeps what is given, and comes back the same', () => {
  const stage = { name: 'run', processingStatus: 'running', doneStatus: 'done' };
  const nightly = {
    name: 'nightly',
    cron: '0 3 * * *',
    input: { deep: [1] },
    labels: { a: 'b' },
    priority: 9,
  };
  const proto = create(PipelineSchema, {
    name: 'p',
    stages: [stage, { ...stage, backoff: { jitter: 0 } }],
    schedules: [nightly, { ...nightly, timeZone: 'Asia/Tokyo', nextTime: { seconds: 1n } }],
  });
  const definition = converting((v) => pipelineFromProto(proto, 'pipeline', v));
  const [first, second] = definition.stages;
  assert.deepEqual(
    [definition.initialStatus, definition.errorStatus, definition.canceledStatus],
    ['new', 'error', 'canceled'],
  );
  assert.deepEqual(
    [first?.leaseMs, first?.timeoutMs, first?.maxAttempts, first?.backoff.jitter],
    [60_000, 0, 3, 0.2],
  );
  assert.deepEqual(second?.backoff, { initialMs: 1000, multiplier: 2, maxMs: 300_000, jitter: 0 });
  assert.deepEqual(
    definition.schedules.map(({ timeZone, input }) => [timeZone, input]),
    [
      ['UTC', { deep: [1] }],
      ['Asia/Tokyo', { deep: [1] }],
    ],
  );
  const stored = {
    ...definition,
    ...{ paused: true, generation: 3n, createTime: new Date(1), updateTime: new Date(2) },
    schedules: definition.schedules.map((s) => ({ ...s, nextTime: new Date(86_400_000) })),
    stages: definition.stages.map((s) => ({ ...s, waitingStatus: 'new', paused: false })),
  };
  const back = pipelineToProto(stored);
  assert.deepEqual(
    converting((v) => pipelineFromProto(back, 'pipeline', v)),
    definition,
  );
  assert.deepEqual([back.paused, back.generation, back.stages[0]?.waitingStatus], [true, 3n, 'new']);
  assert.equal(back.schedules[1]?.nextTime?.seconds, 86_400n);
  const bad = create(PipelineSchema, {
    stages: [{ timeout: { seconds: -1n }, backoff: { multiplier: NaN } }],
    schedules: [{ input: { deep: [NaN] } }],
  });
  assert.deepEqual(
    fieldsOf(() => converting((v) => pipelineFromProto(bad, 'pipeline', v))),
    [
      'pipeline.stages[0].timeout',
      'pipeline.stages[0].backoff.multiplier',
      'pipeline.schedules[0].input.deep[0]',
    ],
  );
});

/** Takes gRPC's prefix apart as a client does: not compressed, and as long as it says. */
function unframe(frame: Buffer): WatchRunsResponse {
  const body = frame.subarray(5);
  assert.deepEqual([frame.readUInt8(0), frame.readUInt32BE(1)], [0, body.length]);
  return fromBinary(WatchRunsResponseSchema, body);
}

test('a watch message is encoded once, its events once over all messages, and both ways agree', () => {
  const before = { ...encodeCounts };
  const [one, two] = [sampleEvent(5n), sampleEvent(6n)];
  const both = message({ kind: 'EVENTS', events: [one, two], revision: 6n, resumeToken: 'e.6' });
  const filtered = message({ kind: 'EVENTS', events: [two], revision: 6n, resumeToken: 'e.6' });
  assert.equal(frameWatchMessage(both), frameWatchMessage(both));
  frameWatchMessage(filtered);
  assert.deepEqual([encodeCounts.messages - before.messages, encodeCounts.events - before.events], [2, 2]);
  assert.equal(watchMessageToProto(both), watchMessageToProto(both));
  for (const m of [both, filtered, { ...both, payload: true }, message()]) {
    assert.ok(equals(WatchRunsResponseSchema, unframe(frameWatchMessage(m)), watchMessageToProto(m)));
  }
});

test('an event is shown with or without payload, and as state without a type', () => {
  const event = sampleEvent(5n);
  const show = (kind: 'EVENTS' | 'STATE', payload: boolean) =>
    unframe(frameWatchMessage(message({ kind, payload, events: [event] })));
  assert.deepEqual(show('EVENTS', true).events[0]?.run?.checkpoint, { step: 7 });
  assert.equal(show('EVENTS', false).events[0]?.run?.checkpoint, undefined);
  const state = show('STATE', true);
  assert.equal(state.kind, WatchKind.STATE);
  assert.deepEqual([state.events[0]?.type, state.events[0]?.previousStatus], [EventType.UNSPECIFIED, '']);
  assert.deepEqual([state.events[0]?.revision, state.events[0]?.version], [5n, 12n]);
});

function fieldsOf(call: () => unknown): string[] {
  try {
    call();
  } catch (error) {
    if (error instanceof BatonError) return error.violations.map((v) => v.field);
    throw error;
  }
  throw new Error('no violation was found');
}
