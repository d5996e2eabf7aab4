import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { create, toBinary, toJsonString, type Message, type MessageInitShape } from '@bufbuild/protobuf';
import {
  BatchCreateRunsRequestSchema,
  GetRunRequestSchema,
  ListRunsRequestSchema,
  type GetRunRequest,
} from '../../gen/baton/v1/job_service_pb.js';
import { BatonError, canceledError } from '../../src/base/errors.js';
import type { Format } from '../../src/rpc/decode/decode.js';
import { AbortableSignal } from '../../src/rpc/call_signal.js';
import { Intake, type Payload } from '../../src/rpc/intake.js';
import { RPC_LIMITS } from '../../src/rpc/limits.js';
import { until, within } from '../support/rpc_servers.js';

const MIB = 1024 * 1024;

function bytesOf(id: string): Buffer {
  return Buffer.from(toBinary(GetRunRequestSchema, create(GetRunRequestSchema, { id })));
}

function payload(intake: Intake, bytes: Buffer, encoding = 'identity'): Payload {
  const held = intake.budget.hold();
  held.add(bytes.length);
  return { bytes, encoding, format: 'binary', held };
}

/** Serves a GetRun of so many bytes; `answer` is what the service does with it. */
function serve<T>(
  intake: Intake,
  size: number,
  answer: (id: string) => Promise<T>,
  signal = new AbortableSignal(),
): Promise<T> {
  return intake.serve(
    GetRunRequestSchema,
    payload(intake, bytesOf('x'.repeat(size))),
    signal,
    (request: Message) => answer((request as GetRunRequest).id),
  );
}

const never = (): Promise<never> => new Promise(() => {});

test('a small request is decoded at once, also behind large ones', async () => {
  const intake = new Intake();
  const seen: string[] = [];
  const note = (name: string) => (): Promise<void> => {
    seen.push(name);
    return Promise.resolve();
  };
  const large = serve(intake, MIB, note('large'));
  await serve(intake, 10, note('small'));
  await within('the large one', large);
  assert.deepEqual(seen, ['small', 'large']);
});

test('large requests take turns in their order, with a turn of the event loop between two', async () => {
  const intake = new Intake();
  const seen: string[] = [];
  const loop = (): void => {
    seen.push('others');
    if (seen.filter((name) => name !== 'others').length < 3) setImmediate(loop);
  };
  setImmediate(loop);
  const calls = ['a', 'b', 'c'].map((name) =>
    serve(intake, MIB, () => {
      seen.push(name);
      return Promise.resolve();
    }),
  );
  await within('all', Promise.all(calls));
  const order = seen.filter((name, index) => name !== seen[index - 1]);
  assert.deepEqual(order.slice(0, 6), ['others', 'a', 'others', 'b', 'others', 'c']);
});

test('a turn is over when the service has begun, however long its answer takes, and when it has failed', async () => {
  const intake = new Intake();
  void serve(intake, MIB, never);
  await assert.rejects(
    serve(intake, MIB, () => Promise.reject(new Error('failed'))),
    /failed/,
  );
  const broken = payload(intake, Buffer.alloc(MIB, 0xff));
  await assert.rejects(
    intake.serve(GetRunRequestSchema, broken, new AbortableSignal(), never),
    (error) => error instanceof BatonError && error.reason === 'INVALID_ARGUMENT',
  );
  await within(
    'the next',
    serve(intake, MIB, () => Promise.resolve()),
  );
  assert.equal(intake.budget.heldBytes, 0);
});

test('who has gone is not decoded', async () => {
  const intake = new Intake();
  const signal = new AbortableSignal();
  let decoded = 0;
  const call = serve(
    intake,
    MIB,
    () => {
      decoded += 1;
      return Promise.resolve();
    },
    signal,
  );
  signal.abort(canceledError());
  await assert.rejects(call, /canceled/);
  assert.equal(decoded, 0);
  assert.equal(intake.budget.heldBytes, 0);
});

test('a large request that waits holds up other large ones for a second at most', async () => {
  const intake = new Intake(undefined, 20);
  void serve(intake, 10 * MIB, never);
  await within(
    'the next',
    serve(intake, 10 * MIB, () => Promise.resolve()),
  );
});

test('of huge requests only as many are with the service as fit, and large ones pass by', async () => {
  const intake = new Intake(undefined, RPC_LIMITS.timerMs);
  let began = 0;
  const ends: (() => void)[] = [];
  const hold = (): Promise<void> => {
    began += 1;
    return new Promise((resolve) => ends.push(resolve));
  };
  const size = 10 * MIB;
  const calls = [serve(intake, size, hold), serve(intake, size, hold)];
  await until('the first', () => began === 1);
  await within(
    'a large one',
    serve(intake, MIB, () => Promise.resolve()),
  );
  assert.equal(began, 1);
  ends[0]?.();
  await until('the second', () => began === 2);
  ends[1]?.();
  await within('both', Promise.all(calls));
});

/** Serves a ListRuns. */
function list(
  intake: Intake,
  request: MessageInitShape<typeof ListRunsRequestSchema>,
  answer: () => Promise<void>,
  format: Format = 'binary',
): Promise<void> {
  const whole = create(ListRunsRequestSchema, request);
  const bytes =
    format === 'json'
      ? Buffer.from(toJsonString(ListRunsRequestSchema, whole))
      : Buffer.from(toBinary(ListRunsRequestSchema, whole));
  const given = { ...payload(intake, bytes), format };
  return intake.serve(ListRunsRequestSchema, given, new AbortableSignal(), answer);
}

test('of requests for long pages only as many are with the service as fit, and short ones pass by', async () => {
  const intake = new Intake(undefined, RPC_LIMITS.timerMs);
  const began: string[] = [];
  const ends = new Map<string, () => void>();
  const hold = (name: string) => (): Promise<void> => {
    began.push(name);
    return new Promise((resolve) => ends.set(name, resolve));
  };
  // A request that takes turns itself.
  const filter = { repository: 'x'.repeat(40_000) };
  const calls = [
    list(intake, { pageSize: 1000 }, hold('first'), 'json'),
    list(intake, { pageSize: 1000 }, hold('second'), 'json'),
    list(intake, { includePayload: true, filter }, hold('third')),
    list(intake, {}, hold('short, JSON'), 'json'),
    list(intake, { pageSize: 200 }, hold('short')),
  ];
  await until('the first and the short ones', () => began.length === 3);
  assert.deepEqual([...began].sort(), ['first', 'short', 'short, JSON']);
  ends.get('first')?.();
  await until('the second', () => began.length === 4);
  ends.get('second')?.();
  await until('the third', () => began.length === 5);
  assert.deepEqual(began.slice(3), ['second', 'third']);
  for (const end of ends.values()) end();
  await within('all', Promise.all(calls));
});

test('a long page that takes long holds up others for a second at most', async () => {
  const intake = new Intake(undefined, 20);
  void list(intake, { includePayload: true }, never);
  await within(
    'the next',
    list(intake, { includePayload: true }, () => Promise.resolve()),
  );
});

test('a compressed request is unpacked in its turn, and counts as what it becomes', async () => {
  const intake = new Intake(undefined, RPC_LIMITS.timerMs);
  let began = 0;
  const ends: (() => void)[] = [];
  const call = (size: number): Promise<void> =>
    intake.serve(
      GetRunRequestSchema,
      payload(intake, gzipSync(bytesOf('x'.repeat(size))), 'gzip'),
      new AbortableSignal(),
      () => {
        began += 1;
        return new Promise((resolve) => ends.push(resolve));
      },
    );
  const calls = [call(10 * MIB), call(10 * MIB)];
  await until('the first', () => began === 1);
  ends[0]?.();
  await until('the second', () => began === 2);
  ends[1]?.();
  await Promise.all(calls);
  // One that is not huge after all does not keep its room.
  const large = [call(MIB), call(MIB)];
  await until('both', () => began === 4);
  ends.slice(2).forEach((end) => end());
  await Promise.all(large);
});

test('what holds too much is refused before anything of it is built', async () => {
  const intake = new Intake();
  const items = payload(intake, Buffer.alloc(14 * MIB, Buffer.from([0x0a, 0])));
  const before = process.memoryUsage().heapUsed;
  await assert.rejects(
    intake.serve(BatchCreateRunsRequestSchema, items, new AbortableSignal(), never),
    /250000/,
  );
  assert.ok(process.memoryUsage().heapUsed - before < 20 * MIB);
});
