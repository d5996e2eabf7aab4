import assert from 'node:assert/strict';
import { connect as connectHttp2 } from 'node:http2';
import { test } from 'node:test';
import { create, toBinary } from '@bufbuild/protobuf';
import { anyUnpack } from '@bufbuild/protobuf/wkt';
import { Code } from '@connectrpc/connect';
import { status as GrpcCode } from '@grpc/grpc-js';
import { BatchUpdateStatusResponseSchema, JobService } from '../../gen/baton/v1/job_service_pb.js';
import { BadRequestSchema, ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import type { Status } from '../../gen/google/rpc/status_pb.js';
import { BatonError, ERROR_REASONS, invalidArgument } from '../../src/base/errors.js';
import { updateResultsToProto } from '../../src/rpc/convert/results.js';
import { CODE_OF_REASON } from '../../src/rpc/errors.js';
import type { CallSignal } from '../../src/service/api.js';
import { sampleRun } from '../support/rpc_fake.js';
import { seenError, type SeenError } from '../support/rpc_errors.js';
import { startServers, within, type Servers } from '../support/rpc_servers.js';

/** The error of GetRun over every protocol, grpc-js first. */
async function overAll(servers: Servers): Promise<Record<string, SeenError>> {
  const errors: Record<string, SeenError> = {
    'grpc-js': await seenError(servers.grpcJs.unary(JobService.method.getRun, { id: 'x' })),
  };
  for (const [name, jobs] of Object.entries(servers.jobs))
    errors[name] = await seenError(jobs.getRun({ id: 'x' }));
  return errors;
}

test('a service error looks the same over every protocol, for every reason', async () => {
  let error: Error = new Error('unset');
  await using servers = await startServers({ jobs: { getRun: () => Promise.reject(error) } });
  for (const reason of ERROR_REASONS.filter((r) => r !== 'INTERNAL')) {
    error = new BatonError(reason, `about ${reason} – 100 %`, { metadata: { run_id: 'x' } });
    const isRetryable = ['SLOW_CONSUMER', 'OVERLOADED', 'DATABASE_UNAVAILABLE', 'SERVER_STOPPING'].includes(
      reason,
    );
    const expected: SeenError = {
      code: CODE_OF_REASON[reason],
      message: `about ${reason} – 100 %`,
      reason,
      domain: 'baton.v1',
      metadata: { run_id: 'x' },
      violations: [],
      retryDelayMs: isRetryable ? 1000 : undefined,
    };
    for (const [protocol, seen] of Object.entries(await overAll(servers))) {
      assert.deepEqual(seen, expected, `${reason} over ${protocol}`);
    }
  }
});

test('all violations and the retry delay arrive', async () => {
  const violations = Array.from({ length: 20 }, (_, i) => ({
    field: `labels["k${i}"]`,
    description: 'too long',
  }));
  let error: Error = invalidArgument(violations);
  await using servers = await startServers({ jobs: { getRun: () => Promise.reject(error) } });
  for (const [protocol, seen] of Object.entries(await overAll(servers))) {
    assert.deepEqual(
      seen.violations,
      violations.map((v) => [v.field, v.description]),
      protocol,
    );
    assert.equal(seen.code, GrpcCode.INVALID_ARGUMENT);
  }
  error = new BatonError('OVERLOADED', 'full', { retryDelayMs: 2500 });
  for (const seen of Object.values(await overAll(servers))) assert.equal(seen.retryDelayMs, 2500);
});

test('an error says at most 20 violations and how many more, and fewer over gRPC where they are long', async () => {
  const violations = Array.from({ length: 2000 }, (_, i) => ({
    field: `requests[${i}].labels["${'x'.repeat(150)}"]`,
    description: 'is bad '.repeat(20),
  }));
  await using servers = await startServers({
    jobs: { getRun: () => Promise.reject(invalidArgument(violations, 5)) },
  });
  for (const [protocol, seen] of Object.entries(await overAll(servers))) {
    const isTrailer = protocol === 'grpc-js' || protocol === 'grpc over connect';
    assert.equal(seen.code, GrpcCode.INVALID_ARGUMENT);
    assert.match(seen.message, /^requests\[0\].*; and \d+ more$/, protocol);
    assert.ok(seen.message.length <= 1024, protocol);
    assert.ok(isTrailer ? seen.violations.length > 5 : seen.violations.length === 20, protocol);
    assert.equal(seen.violations.length + Number(seen.metadata?.['violations_omitted']), 2005, protocol);
  }
});

test('errors of a batch are as long as one answer can hold, and each item has its own', () => {
  const violations = Array.from({ length: 20 }, (_, index) => ({
    field: `requests[0].output.${'k'.repeat(180)}${index}`,
    description: 'must be a finite number',
  }));
  const results = Array.from({ length: 1000 }, () => ({ error: invalidArgument(violations) }));
  const protos = updateResultsToProto(results);
  const answer = create(BatchUpdateStatusResponseSchema, { results: protos });
  const { byteLength } = toBinary(BatchUpdateStatusResponseSchema, answer);
  // Beside 3 MiB of runs, within the 4 MiB that a gRPC client takes.
  assert.ok(byteLength < 1024 * 1024 - 50_000, `${byteLength} bytes`);
  const statuses = protos.map(({ result }) => {
    assert.ok(result.case === 'error');
    return result.value;
  });
  assert.deepEqual(new Set(statuses.map(({ code }) => code)), new Set([Code.InvalidArgument]));
  const told = (status: Status | undefined): [number, string | undefined] => {
    const request = status?.details.map((any) => anyUnpack(any, BadRequestSchema)).find((m) => m);
    const info = status?.details.map((any) => anyUnpack(any, ErrorInfoSchema)).find((m) => m);
    return [request?.fieldViolations.length ?? 0, info?.metadata['violations_omitted']];
  };
  assert.deepEqual(told(statuses[0]), [20, undefined]);
  assert.deepEqual(told(statuses[999]), [0, '20']);
});

test('the text of an internal error stays in the log, under the id that the client gets', async () => {
  const failure = new Error('password=hunter2', { cause: new Error('deep secret') });
  await using servers = await startServers({ jobs: { getRun: () => Promise.reject(failure) } });
  for (const [protocol, seen] of Object.entries(await overAll(servers))) {
    const id = seen.metadata?.['error_id'] ?? '';
    assert.deepEqual(seen, {
      code: Code.Internal,
      message: `internal error, id ${id}`,
      reason: 'INTERNAL',
      domain: 'baton.v1',
      metadata: { error_id: id },
      violations: [],
      retryDelayMs: undefined,
    });
    const line = servers.logs.find((entry) => entry['error_id'] === id);
    assert.match(JSON.stringify(line), /hunter2.*stack/s, protocol);
  }
  const response = await post(servers, 'GetRun', '{"id":"x"}');
  assert.doesNotMatch(await response.text(), /hunter2|secret/);
});

test('a deliberate INTERNAL does not leak either, and a cause is logged', async () => {
  let error: Error = new BatonError('INTERNAL', 'secret invariant');
  await using servers = await startServers({ jobs: { getRun: () => Promise.reject(error) } });
  for (const seen of Object.values(await overAll(servers))) assert.doesNotMatch(seen.message, /secret/);
  error = new BatonError('DATABASE_UNAVAILABLE', 'no database', { cause: new Error('ECONNREFUSED') });
  assert.equal((await overAll(servers))['connect json']?.message, 'no database');
  assert.match(JSON.stringify(servers.logs), /ECONNREFUSED/);
});

test('bytes that are no message are INVALID_ARGUMENT everywhere', async () => {
  await using servers = await startServers();
  const bytes = Buffer.from([0x0a, 0xff, 0x01]);
  const grpc = await seenError(servers.grpcJs.raw('/baton.v1.JobService/GetRun', bytes));
  assert.equal(grpc.reason, 'INVALID_ARGUMENT');
  assert.equal(grpc.code, GrpcCode.INVALID_ARGUMENT);
  const connect = await post(servers, 'GetRun', bytes, 'application/proto');
  assert.equal(connect.status, 400);
  assert.deepEqual(await reasonOf(connect), ['invalid_argument', 'INVALID_ARGUMENT']);
  const frame = Buffer.concat([Buffer.from([0, 0, 0, 0, bytes.length]), bytes]);
  const web = await (await post(servers, 'GetRun', frame, 'application/grpc-web+proto')).text();
  assert.match(web, /grpc-status: 3\r\n/);
  assert.match(web, /grpc-status-details-bin: /);
  const stream = await (await post(servers, 'WatchRuns', frame, 'application/connect+proto')).text();
  assert.match(stream, /"code":"invalid_argument".*"reason":"INVALID_ARGUMENT"/);
});

test('malformed JSON, a misspelt field and a value of the wrong type name what is wrong', async () => {
  await using servers = await startServers();
  const broken = await post(servers, 'CreateRun', '{"repository":');
  assert.equal(broken.status, 400);
  assert.deepEqual(await reasonOf(broken), ['invalid_argument', 'INVALID_ARGUMENT']);
  const typo = (await (await post(servers, 'CreateRun', '{"prioriti":3}')).json()) as ErrorBody;
  assert.match(typo.message, /prioriti/);
  assert.deepEqual(
    typo.details[1]?.debug.fieldViolations?.map((v) => v.field),
    ['prioriti'],
  );
  const wrong = (await (await post(servers, 'CreateRun', '{"maxAttempts":"many"}')).json()) as ErrorBody;
  assert.deepEqual(
    wrong.details[1]?.debug.fieldViolations?.map((v) => v.field),
    ['max_attempts'],
  );
  const longName = 'x'.repeat(5000);
  const gzip = { 'accept-encoding': 'gzip' };
  const long = await post(servers, 'CreateRun', `{"${longName}":3}`, 'application/json', gzip);
  assert.deepEqual(await reasonOf(long), ['invalid_argument', 'INVALID_ARGUMENT']);
});

test('an RPC that the service does not have is UNIMPLEMENTED, and so is an unknown path', async () => {
  await using servers = await startServers();
  for (const jobs of Object.values(servers.jobs)) {
    const seen = await seenError(jobs.cancelRun({ runId: 'x' }));
    assert.deepEqual([seen.code, seen.reason], [Code.Unimplemented, 'NOT_IMPLEMENTED']);
  }
  const grpc = await seenError(servers.grpcJs.unary(JobService.method.cancelRun, { runId: 'x' }));
  assert.deepEqual([grpc.code, grpc.reason], [Code.Unimplemented, 'NOT_IMPLEMENTED']);
  const unknown = await post(servers, 'Nope', '{}');
  assert.equal(unknown.status, 404);
  assert.deepEqual(await reasonOf(unknown), ['unimplemented', 'NOT_IMPLEMENTED']);
});

test('a wrong content type and a wrong method are refused with words', async () => {
  await using servers = await startServers();
  const form = await post(servers, 'GetRun', '{}', 'application/x-www-form-urlencoded');
  assert.equal(form.status, 415);
  assert.match(((await form.json()) as ErrorBody).message, /application\/json/);
  const method = await fetch(`${servers.url}/baton.v1.JobService/CreateRun`);
  assert.equal(method.status, 405);
  assert.equal(method.headers.get('allow'), 'POST');
  assert.deepEqual(await reasonOf(method), ['unimplemented', 'NOT_IMPLEMENTED']);
});

test('a message over 16 MiB is refused with a clear error and the server goes on', async () => {
  await using servers = await startServers({ jobs: { getRun: () => Promise.resolve(sampleRun()) } });
  const id = 'x'.repeat(16 * 1024 * 1024 + 1);
  const errors = [await seenError(servers.grpcJs.unary(JobService.method.getRun, { id }))];
  for (const jobs of Object.values(servers.jobs)) errors.push(await seenError(jobs.getRun({ id })));
  for (const seen of errors) {
    assert.match(seen.message, /larger than 16777216 bytes/);
    assert.deepEqual([seen.code, seen.reason], [Code.InvalidArgument, 'INVALID_ARGUMENT']);
  }
  await within('a call after it', servers.grpcJs.unary(JobService.method.getRun, { id: 'x' }));
  for (const jobs of Object.values(servers.jobs)) await within('a call after it', jobs.getRun({ id: 'x' }));
});

test('a deadline ends the call over every protocol, and the service sees it', async () => {
  const signals: CallSignal[] = [];
  const getRun = (_id: string, { signal }: { signal: CallSignal }): Promise<never> => {
    signals.push(signal);
    return new Promise(() => {});
  };
  await using servers = await startServers({ jobs: { getRun } });
  const deadline = Date.now() + 50;
  const grpc = await seenError(servers.grpcJs.unary(JobService.method.getRun, { id: 'x' }, { deadline }));
  assert.equal(grpc.code, Code.DeadlineExceeded);
  for (const jobs of Object.values(servers.jobs)) {
    const seen = await seenError(jobs.getRun({ id: 'x' }, { timeoutMs: 50 }));
    assert.equal(seen.code, Code.DeadlineExceeded);
  }
  // A client that leaves the deadline to the server gets its answer, with details.
  const headers = { 'connect-timeout-ms': '50' };
  const response = await post(servers, 'GetRun', '{"id":"x"}', 'application/json', headers);
  assert.deepEqual(await reasonOf(response), ['deadline_exceeded', 'DEADLINE_EXCEEDED']);
  await within('all signals', Promise.all(signals.map(aborted)));
  // The others gave up by themselves at the same time, so that either may come first.
  assert.equal((signals.at(-1)?.reason as BatonError | undefined)?.reason, 'DEADLINE_EXCEEDED');
});

test('a deadline that no timer can hold is no deadline', async () => {
  await using servers = await startServers({ jobs: { getRun: () => Promise.resolve(sampleRun()) } });
  const headers = { 'connect-timeout-ms': '9999999999' };
  assert.equal((await post(servers, 'GetRun', '{"id":"x"}', 'application/json', headers)).status, 200);
});

test('every call is reported once, with its code', async () => {
  await using servers = await startServers({ jobs: { getRun: () => Promise.resolve(sampleRun()) } });
  await servers.grpcJs.unary(JobService.method.getRun, { id: 'x' });
  for (const jobs of Object.values(servers.jobs)) await jobs.getRun({ id: 'x' });
  await seenError(servers.grpcJs.unary(JobService.method.retryRun, {}));
  const seen = servers.reports.map((r) => `${r.protocol} ${r.method} ${r.code}`);
  assert.deepEqual(seen, [
    'grpc baton.v1.JobService/GetRun 0',
    'grpc baton.v1.JobService/GetRun 0',
    'grpc-web baton.v1.JobService/GetRun 0',
    'connect baton.v1.JobService/GetRun 0',
    'connect baton.v1.JobService/GetRun 0',
    'grpc baton.v1.JobService/RetryRun 12',
  ]);
});

interface ErrorBody {
  readonly code: string;
  readonly message: string;
  readonly details: { debug: { reason?: string; fieldViolations?: { field: string }[] } }[];
}

function post(
  { url }: Servers,
  method: string,
  body: string | Buffer,
  contentType = 'application/json',
  headers: Record<string, string> = {},
): Promise<Response> {
  const init = { method: 'POST', body, headers: { 'content-type': contentType, ...headers } };
  return fetch(`${url}/baton.v1.JobService/${method}`, init);
}

async function reasonOf(response: Response): Promise<[string, string | undefined]> {
  const { code, details } = (await response.json()) as ErrorBody;
  return [code, details[0]?.debug.reason];
}

function aborted(signal: CallSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve());
  });
}

test('the gRPC port answers no call that is not sent by POST', async () => {
  await using servers = await startServers({ jobs: { getRun: () => Promise.resolve(sampleRun()) } });
  // Nothing may follow the headers of an answer to HEAD: a claim that is made for one would reach nobody.
  const session = connectHttp2(`http://127.0.0.1:${servers.grpc.port}`);
  const path = '/baton.v1.JobService/GetRun';
  const stream = session.request(
    { ':method': 'HEAD', ':path': path, 'content-type': 'application/grpc' },
    { endStream: false },
  );
  let status: number | undefined;
  stream.once('response', (headers) => (status = headers[':status']));
  stream.resume().end(Buffer.alloc(5));
  await within('the end of the stream', new Promise((resolve) => stream.once('close', resolve)));
  await within('the end of the session', new Promise<void>((resolve) => session.close(resolve)));
  assert.equal(status, 405);
  assert.deepEqual(servers.reports, []);
  assert.deepEqual(
    servers.logs.filter(({ level }) => Number(level) >= 50),
    [],
  );
});
