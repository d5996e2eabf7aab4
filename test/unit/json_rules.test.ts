/** What a request's JSON may hold that the library would change in silence: times that do not exist, and integers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DescMessage } from '@bufbuild/protobuf';
import { JSON_ROUTES, STREAM_ROUTES } from '../support/raw_requests.js';
import { startServers } from '../support/rpc_servers.js';
import { fc } from '../support/seed.js';
import {
  BatchCreateRunsRequestSchema,
  ClaimNextRequestSchema,
  CreateRunRequestSchema,
  ExtendLeasesRequestSchema,
  JobService,
  UpdateStatusRequestSchema,
} from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService, PutPipelineRequestSchema } from '../../gen/baton/v1/pipeline_service_pb.js';
import { checkIntegers } from '../../src/rpc/decode/json_integers.js';
import { checkTimes, durationProblem, timestampProblem } from '../../src/rpc/decode/json_times.js';

const FORM = /^must be a time as in /;
const EXISTS = 'must be a day and a time that exist';
const RANGE = 'must be from 0001-01-01T00:00:00Z to 9999-12-31T23:59:59.999999999Z';

void test('a time in JSON has to exist', () => {
  for (const text of [
    '2026-01-31T12:00:00Z',
    '2024-02-29T00:00:00Z',
    '2000-02-29T23:59:59.999999999Z',
    '0001-01-01T00:00:00Z',
    '9999-12-31T23:59:59.999999999Z',
    '2026-01-31T12:00:00.5+01:00',
    '2026-01-31T12:00:00-23:59',
    '0001-01-01T01:00:00+01:00',
    '9999-12-31T22:59:59-01:00',
  ])
    assert.equal(timestampProblem(text), undefined, text);
  for (const text of [
    '2026-02-30T00:00:00Z',
    '2026-02-29T00:00:00Z',
    '1900-02-29T00:00:00Z',
    '2026-04-31T00:00:00Z',
    '2026-00-10T00:00:00Z',
    '2026-13-10T00:00:00Z',
    '2026-01-00T00:00:00Z',
    '2026-01-32T00:00:00Z',
    '2026-01-31T24:00:00Z',
    '2026-01-31T23:60:00Z',
    '2026-06-30T23:59:60Z',
    '2026-01-31T12:00:00+24:00',
    '2026-01-31T12:00:00+01:60',
  ])
    assert.equal(timestampProblem(text), EXISTS, text);
  for (const text of ['0000-12-31T23:59:59Z', '0001-01-01T00:00:00+00:01', '9999-12-31T23:59:59-00:01'])
    assert.equal(timestampProblem(text), RANGE, text);
});

void test('a time in JSON has one form', () => {
  for (const text of [
    '',
    'now',
    '2026-01-31',
    '2026-01-31T12:00:00',
    '2026-01-31t12:00:00Z',
    '2026-01-31T12:00:00z',
    '2026-01-31 12:00:00Z',
    '2026-01-31T12:00Z',
    '2026-1-31T12:00:00Z',
    '10000-01-01T00:00:00Z',
    '+002026-01-31T12:00:00Z',
    '2026-01-31T12:00:00.Z',
    '2026-01-31T12:00:00,5Z',
    '2026-01-31T12:00:00.1234567891Z',
    '2026-01-31T12:00:00+0100',
    '2026-01-31T12:00:00+01',
    '2026-01-31T12:00:00+01:00Z',
    '2026-01-31T12:00:00Z ',
    ' 2026-01-31T12:00:00Z',
    '2026-01-31T12:00:00Z\n',
    '２026-01-31T12:00:00Z',
    '2026-01-31T12:00:00−01:00',
    '1769860800',
  ])
    assert.match(timestampProblem(text) ?? 'no problem', FORM, JSON.stringify(text));
});

void test('the times of every day that exist are taken, and no others', () => {
  const two = (value: number): string => String(value).padStart(2, '0');
  const parts = fc.tuple(
    fc.integer({ min: 1, max: 9998 }),
    fc.nat({ max: 14 }),
    fc.nat({ max: 33 }),
    fc.nat({ max: 25 }),
  );
  fc.assert(
    fc.property(parts, ([year, month, day, hour]) => {
      const text = `${String(year).padStart(4, '0')}-${two(month)}-${two(day)}T${two(hour)}:00:00Z`;
      const date = new Date(text);
      const exists = !Number.isNaN(date.getTime()) && date.toISOString() === text.replace('Z', '.000Z');
      assert.equal(timestampProblem(text) === undefined, exists, text);
    }),
    { numRuns: 5000 },
  );
});

void test('a duration in JSON has one form', () => {
  for (const text of ['0s', '30s', '1.5s', '-1s', '0.000000001s', '315576000000s'])
    assert.equal(durationProblem(text), undefined, text);
  for (const text of [
    '',
    '30',
    '30sec',
    '1sx',
    '1 s',
    '+1s',
    '.5s',
    '1.s',
    '1e3s',
    '1.0000000001s',
    '1m',
    's',
    '1s\n',
  ])
    assert.match(durationProblem(text) ?? 'no problem', /^must be a duration/, JSON.stringify(text));
  assert.match(durationProblem('315576000001s') ?? '', /at most 315576000000 seconds/);
  assert.match(durationProblem(`${'9'.repeat(400)}s`) ?? '', /at most/);
});

/** The paths that a check reports. */
function paths(check: typeof checkTimes | typeof checkIntegers, desc: DescMessage, json: string): string[] {
  const found: string[] = [];
  const report = (path: () => string): number => found.push(path());
  if (check === checkTimes) checkTimes(desc, JSON.parse(json), report);
  else checkIntegers(desc, json, report);
  return found;
}

void test('every time and duration of a request is found, under either of its names', () => {
  const times = (desc: DescMessage, json: string): string[] => paths(checkTimes, desc, json);
  assert.deepEqual(times(CreateRunRequestSchema, '{"scheduleTime": "2026-02-30T00:00:00Z"}'), [
    'schedule_time',
  ]);
  assert.deepEqual(times(CreateRunRequestSchema, '{"schedule_time": 5}'), ['schedule_time']);
  assert.deepEqual(times(CreateRunRequestSchema, '{"scheduleTime": null, "input": {"wait": "x"}}'), []);
  const batch =
    '{"requests": [{}, {"scheduleTime": "x"}, 7, null, {"scheduleTime": "2026-01-31T24:00:00Z"}]}';
  assert.deepEqual(times(BatchCreateRunsRequestSchema, batch), [
    'requests[1].schedule_time',
    'requests[4].schedule_time',
  ]);
  assert.deepEqual(times(ClaimNextRequestSchema, '{"wait": "1sx", "leaseDuration": {}}'), [
    'wait',
    'lease_duration',
  ]);
  const update = '{"claimNext": {"wait": "soon"}, "error": {"retryDelay": "1.0000000001s"}}';
  assert.deepEqual(times(UpdateStatusRequestSchema, update).sort(), ['claim_next.wait', 'error.retry_delay']);
  const pipeline =
    '{"pipeline": {"stages": [{"leaseDuration": "1", "backoff": {"initial": "x"}}], "createTime": "2026-02-30T00:00:00Z"}}';
  assert.deepEqual(times(PutPipelineRequestSchema, pipeline).sort(), [
    'pipeline.create_time',
    'pipeline.stages[0].backoff.initial',
    'pipeline.stages[0].lease_duration',
  ]);
  for (const json of ['null', '[]', '7', '"x"', '{"requests": {}}', '{"requests": null}'])
    assert.deepEqual(times(BatchCreateRunsRequestSchema, json), [], json);
});

void test('an integer beyond 2^53 is found in every Struct of a request, and nowhere else', () => {
  const integers = (desc: DescMessage, json: string): string[] => paths(checkIntegers, desc, json);
  const input = (value: string): string[] => integers(CreateRunRequestSchema, `{"input": {"n": ${value}}}`);
  for (const value of [
    '9007199254740992',
    '-9007199254740992',
    '9007199254740993',
    '1152921504606846976',
    '1'.repeat(400),
  ])
    assert.deepEqual(input(value), ['input.n'], value);
  for (const value of [
    '9007199254740991',
    '-9007199254740991',
    '1e20',
    '1E+400',
    '9007199254740993.0',
    '9007199254740993e+0',
    '1e+0000000000000000000020',
    '1e-0000000000000000000020',
    '0.12345678901234567890',
    '"9007199254740993"',
    '"\\"9007199254740993"',
    '1769860800000',
    '[true, null, {}, []]',
  ])
    assert.deepEqual(input(value), [], value);
  const nested =
    '{ "input" : { "a" : [ 1, {"b\\"c": [[], 12345678901234567]} ,"x", 12345678901234568 ] } , "priority": 1 }';
  assert.deepEqual(integers(CreateRunRequestSchema, nested), ['input.a[1].b"c[1]', 'input.a[3]']);
  const batch = '{"requests": [{"input": {}}, {"input": {"n": 12345678901234567}}]}';
  assert.deepEqual(integers(BatchCreateRunsRequestSchema, batch), ['requests[1].input.n']);
  const leases = '{"leases": [{"checkpoint": {"n": 12345678901234567}}]}';
  assert.deepEqual(integers(ExtendLeasesRequestSchema, leases), ['leases[0].checkpoint.n']);
  const schedules = '{"pipeline": {"schedules": [{"input": {"n": 12345678901234567}}]}}';
  assert.deepEqual(integers(PutPipelineRequestSchema, schedules), ['pipeline.schedules[0].input.n']);
  // What is no Struct has rules of its own, and what is no field is named by the library.
  for (const json of [
    '{"priority": 12345678901234567}',
    '{"input": 12345678901234567}',
    '{"other": {"n": 12345678901234567}}',
  ])
    assert.deepEqual(integers(CreateRunRequestSchema, json), [], json);
});

void test('a long text is read once, whatever it holds', () => {
  const startedMs = performance.now();
  const key = `"${'k'.repeat(1_000_000)}"`;
  const list = `[${'12345678901234567,'.repeat(200_000)}1]`;
  let count = 0;
  checkIntegers(CreateRunRequestSchema, `{${key}: ${list}, "input": {${key}: ${list}}}`, () => (count += 1));
  assert.equal(count, 200_000);
  const tookMs = performance.now() - startedMs;
  console.log(`10 MB took ${tookMs.toFixed(0)} ms, at most 500 are meant`);
  assert.ok(tookMs < 5000);
});

void test('on the way to a Struct, JSON and the contract have the same names', () => {
  let structs = 0;
  const visit = (desc: DescMessage, path: readonly string[]): void => {
    for (const { name, jsonName, message } of desc.fields) {
      if (message === undefined) continue;
      if (message.typeName === 'google.protobuf.Struct') {
        structs += 1;
        assert.equal(name, jsonName);
        assert.equal(path.join('.'), path.join('.').replaceAll('_', ''), `${path.join('.')}.${name}`);
      } else if (message.typeName.startsWith('baton.')) visit(message, [...path, name]);
    }
  };
  for (const { methods } of [JobService, PipelineService]) for (const { input } of methods) visit(input, []);
  assert.ok(structs >= 7, `only ${structs} were found`);
});

void test('both are refused by every way in which JSON can come, with the fields by name', async () => {
  await using servers = await startServers({});
  const target = { grpcAddress: `127.0.0.1:${servers.grpc.port}`, httpUrl: servers.url };
  const create = '{"scheduleTime": "2026-02-30T00:00:00Z", "input": {"id": 9007199254740993}, "priority": 0}';
  for (const [name, route] of Object.entries(JSON_ROUTES)) {
    const { reason, fields, message } = await route(target, 'CreateRun', Buffer.from(create));
    assert.deepEqual([reason, fields], ['INVALID_ARGUMENT', ['schedule_time', 'input.id']], name);
    assert.match(message, /must be a day and a time that exist/);
  }
  for (const [name, route] of Object.entries(STREAM_ROUTES.json)) {
    const outcome = await route(target, 'WatchRuns', Buffer.from('{"bookmarkInterval": "10sec"}'));
    assert.deepEqual([outcome.reason, outcome.fields], ['INVALID_ARGUMENT', ['bookmark_interval']], name);
  }
});
