import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import { ClaimNextResponseSchema } from '../../gen/baton/v1/job_service_pb.js';
import { LIMITS } from '../../src/base/limits.js';
import { claimToProto } from '../../src/rpc/convert/run.js';
import { splitClaims } from '../../src/run/claim_split.js';
import type { Claim, JsonObject, Run } from '../../src/run/run.js';
import { fitRun, fitRuns, payloadBytes, runBytes, unreadableFields } from '../../src/run/run_size.js';
import { sampleRun } from '../support/rpc_fake.js';
import { fc } from '../support/seed.js';

const NO_PAYLOAD = { input: undefined, output: undefined, checkpoint: undefined, payloadOmitted: false };
const TOKEN = 'x'.repeat(80);

/** As the library of protobuf encodes the answer of a claim. */
function encoded(...runs: Run[]): number {
  const claims = runs.map((run) =>
    claimToProto({ run, leaseToken: TOKEN, leaseExpireTime: new Date(1_700_000_000_123) }),
  );
  return toBinary(ClaimNextResponseSchema, create(ClaimNextResponseSchema, { claims })).byteLength;
}

const object = fc
  .object({
    maxDepth: 4,
    maxKeys: 8,
    values: [
      fc.string({ unit: 'binary' }),
      fc.double({ noNaN: true, noDefaultInfinity: true }),
      fc.boolean(),
      fc.constant(null),
      fc.string({ maxLength: 300 }),
    ],
  })
  .map((value) => JSON.parse(JSON.stringify(value)) as JsonObject)
  // The library loses it.
  .filter((value) => !JSON.stringify(value).includes('__proto__'));

test('a run is never larger than it is taken for, and not much smaller', () => {
  fc.assert(
    fc.property(
      fc.record({
        ...{ input: object, output: object, checkpoint: object },
        labels: fc.dictionary(fc.string({ minLength: 1, maxLength: 63 }), fc.string({ maxLength: 256 })),
        statusMessage: fc.string({ unit: 'binary', maxLength: 1024 }),
        repository: fc.string({ maxLength: 256 }),
        error: fc.record({ code: fc.string({ maxLength: 64 }), message: fc.string({ maxLength: 4096 }) }),
        ...{ requestId: fc.string({ maxLength: 128 }), workerId: fc.string({ maxLength: 128 }) },
      }),
      (fields) => {
        const run = sampleRun({ ...fields, payloadOmitted: false });
        const [taken, real] = [runBytes(run), encoded(run)];
        assert.ok(real <= taken, `${real} bytes taken for ${taken}`);
        // Each text and value is taken for a byte or two more at most.
        assert.ok(taken <= 1.15 * real + 400, `${real} bytes taken for ${taken}`);
        const payload = encoded(run) - encoded({ ...run, ...NO_PAYLOAD });
        assert.ok(
          Math.abs(payloadBytes(run) - payload) <= 32,
          `a payload of ${payload}: ${payloadBytes(run)}`,
        );
      },
    ),
    { numRuns: 500 },
  );
});

const nested = (depth: number): JsonObject => (depth === 1 ? { x: 1 } : { x: nested(depth - 1) });
const listed = (depth: number): unknown => (depth === 1 ? 1 : [listed(depth - 1)]);

test('what cannot be encoded, or decoded by most clients, has no size', () => {
  assert.ok(Number.isFinite(payloadBytes({ ...NO_PAYLOAD, input: nested(LIMITS.jsonDepth - 1) })));
  for (const bad of [
    nested(LIMITS.jsonDepth),
    { x: listed(LIMITS.jsonDepth) },
    JSON.parse('{"x": [0, {"y": 1e400}]}') as JsonObject,
    JSON.parse('{"x": -1e400}') as JsonObject,
    JSON.parse(`{"x": ${'['.repeat(100_000)}${']'.repeat(100_000)}}`) as JsonObject,
  ]) {
    const run = sampleRun({ ...NO_PAYLOAD, output: bad, checkpoint: { ok: true } });
    assert.equal(runBytes(run), Number.POSITIVE_INFINITY);
    assert.deepEqual(unreadableFields(run), ['output']);
    assert.deepEqual(fitRun(run, Number.MAX_SAFE_INTEGER), { ...run, ...NO_PAYLOAD, payloadOmitted: true });
    assert.ok(Number.isFinite(runBytes(run, false)));
  }
});

const of = (chars: number, id = ''): Run =>
  sampleRun({ ...NO_PAYLOAD, id, input: { text: 'x'.repeat(chars) } });
const claimOf = (run: Run): Claim => ({ run, leaseToken: TOKEN, leaseExpireTime: new Date() });

test('a page ends before the first run that does not fit, and the first comes without its payload if need be', () => {
  const ids = (runs: readonly Run[]): string[] =>
    runs.map(({ id, payloadOmitted }) => `${id}${payloadOmitted ? '!' : ''}`);
  const max = 10_000;
  assert.deepEqual(ids(fitRuns([of(4000, 'a'), of(4000, 'b'), of(4000, 'c'), of(1, 'd')], max)), ['a', 'b']);
  assert.deepEqual(ids(fitRuns([of(20_000, 'a'), of(4000, 'b'), of(20_000, 'c')], max)), ['a!', 'b', 'c!']);
  assert.deepEqual(fitRuns([], max), []);
});

test('claims are given in order, the first however large it is, and none that cannot be sent', () => {
  const max = 10_000;
  const broken = sampleRun({ ...NO_PAYLOAD, id: 'broken', input: nested(100) });
  const names = (claims: readonly Claim[]): string => claims.map(({ run }) => run.id).join();
  const split = (...runs: Run[]): string[] => {
    const { fitting, left, unreadable } = splitClaims(runs.map(claimOf), max);
    return [names(fitting), names(left), names(unreadable)];
  };
  assert.deepEqual(split(of(4000, 'a'), of(4000, 'b'), of(4000, 'c'), of(1, 'd')), ['a,b', 'c,d', '']);
  assert.deepEqual(split(of(20_000, 'a'), of(1, 'b')), ['a', 'b', '']);
  assert.deepEqual(split(broken, of(20_000, 'a'), broken, of(1, 'b')), ['a', 'b', 'broken,broken']);
});
