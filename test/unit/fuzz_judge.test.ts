/** The fuzzer's judge: each kind of bad answer is seen, over each protocol, and good ones pass. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import { anyPack } from '@bufbuild/protobuf/wkt';
import { BadRequestSchema } from '../../gen/google/rpc/error_details_pb.js';
import { StatusSchema, type Status } from '../../gen/google/rpc/status_pb.js';
import { BatonError } from '../../src/base/errors.js';
import { errorJson } from '../../src/rpc/connect_errors.js';
import { statusOf } from '../../src/rpc/errors.js';
import { framed } from '../fuzz/requests.js';
import type { HttpInput } from '../fuzz/input.js';
import { judge } from '../fuzz/judge.js';
import type { Answer } from '../fuzz/send.js';

const INPUT: HttpInput = {
  ...{
    kind: 'http',
    method: 'GetRun',
    transport: 'test',
    faults: [],
    port: 'http',
    version: 2,
    verb: 'POST',
  },
  ...{ path: '/', headers: {}, body: Buffer.alloc(0), ends: true, form: 'connect-unary', wellFormed: true },
  mayWait: false,
};
const ANSWER: Answer = {
  ...{ end: 'complete', status: 200, headers: { 'content-type': 'application/json' }, trailers: {} },
  ...{ body: Buffer.from('{}'), resetCode: 0 },
};
const GRPC = { 'content-type': 'application/grpc' };

function problems(answer: Partial<Answer>, input: Partial<HttpInput> = {}): readonly string[] {
  return judge({ ...INPUT, ...input }, { ...ANSWER, ...answer }).problems;
}

const overConnect = (status: Status): Partial<Answer> => ({
  ...{ status: 400, body: Buffer.from(errorJson(status)) },
});

function overGrpc(status: Status): Partial<Answer> {
  const details = Buffer.from(toBinary(StatusSchema, status)).toString('base64');
  return {
    headers: GRPC,
    trailers: { 'grpc-status': String(status.code), 'grpc-status-details-bin': details },
    body: Buffer.alloc(0),
  };
}

function overGrpcWeb(status: Status): Partial<Answer> {
  const { trailers = {} } = overGrpc(status);
  const text = Object.entries(trailers).map(([name, value]) => `${name}: ${value}\r\n`);
  return {
    headers: { 'content-type': 'application/grpc-web+proto' },
    body: framed(Buffer.from(text.join('')), 0x80),
  };
}

function overConnectStream(status: Status): Partial<Answer> {
  const end = Buffer.from(`{"error":${Buffer.from(errorJson(status)).toString()}}`);
  return { headers: { 'content-type': 'application/connect+json' }, body: framed(end, 2) };
}

const WAYS = { overConnect, overGrpc, overGrpcWeb, overConnectStream };
const found = statusOf(new BatonError('RUN_NOT_FOUND', 'no such run'));
const internal = statusOf(new BatonError('INTERNAL', 'internal error, id 1'));
const unnamed = statusOf(new BatonError('INVALID_ARGUMENT', 'bad bytes'));

/** A server that bounds its errors makes none like these. */
function named(violations: number): Status {
  const fieldViolations = Array.from({ length: violations }, () => ({ field: 'id', description: 'is odd' }));
  const request = create(BadRequestSchema, { fieldViolations });
  return { ...unnamed, details: [...unnamed.details, anyPack(BadRequestSchema, request)] };
}

void test('good answers have no problems', () => {
  assert.deepEqual(problems({}), []);
  assert.deepEqual(problems({ headers: GRPC, trailers: { 'grpc-status': '0' } }, { form: 'grpc' }), []);
  assert.deepEqual(problems({ end: 'left', status: undefined }, { mayWait: true }), []);
  assert.deepEqual(problems({ status: 400, body: Buffer.alloc(0) }, { wellFormed: false }), []);
});

for (const [name, way] of Object.entries(WAYS)) {
  void test(`errors are read ${name}`, () => {
    assert.deepEqual(problems(way(found)), []);
    assert.deepEqual(problems(way(internal)), ['code Internal']);
    assert.match(problems(way(unnamed)).join(), /^INVALID_ARGUMENT names no field: /);
    assert.deepEqual(problems(way(unnamed), { wellFormed: false }), []);
    assert.deepEqual(problems(way(named(21))), []);
    assert.deepEqual(problems(way(named(22))), ['too many violations']);
  });
}

void test('an error without ErrorInfo, with a reason that is not in the list, or of another domain is one', () => {
  const bare = { status: 404, body: Buffer.from('{"code":"not_found","message":"run 7"}') };
  assert.deepEqual(problems(bare), ['NotFound without ErrorInfo: run N']);
  const unknown = { headers: GRPC, trailers: { 'grpc-status': '2' } };
  assert.deepEqual(problems(unknown), ['code Unknown', 'Unknown without ErrorInfo: ']);
  for (const [text, other, problem] of [
    ['RUN_NOT_FOUND', 'RUN_NOT_FOUNX', 'unknown reason RUN_NOT_FOUNX'],
    ['baton.v1', 'baton.v2', 'domain baton.v2'],
  ] as const) {
    const bytes = Buffer.from(toBinary(StatusSchema, create(StatusSchema, found)));
    const at = bytes.indexOf(text);
    bytes.write(other, at);
    const trailers = { 'grpc-status': '5', 'grpc-status-details-bin': bytes.toString('base64') };
    assert.deepEqual(problems({ headers: GRPC, trailers }), [problem]);
  }
});

void test('an answer that does not come, breaks off or is none is a problem', () => {
  assert.deepEqual(problems({ end: 'hangs', status: undefined }), ['no answer in time']);
  assert.deepEqual(problems({ end: 'closed', status: undefined }), ['closed without an answer']);
  assert.deepEqual(problems({ end: 'closed', resetCode: 2 }, { wellFormed: false }), [
    'the stream was reset with INTERNAL_ERROR',
  ]);
  assert.ok(problems({ status: 500, body: Buffer.alloc(0) }).includes('HTTP 500'));
  assert.deepEqual(problems({ headers: GRPC }, { form: 'grpc' }), ['no error of Baton: no grpc-status']);
  assert.deepEqual(problems({ body: Buffer.alloc(5 * 2 ** 20) }), ['the answer is larger than 4 MiB']);
  const long = { ...found, message: 'x'.repeat(40_000) };
  assert.deepEqual(problems(overConnect(long)), ['a very long error']);
});
