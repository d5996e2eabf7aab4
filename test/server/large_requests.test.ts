/** The largest requests that are allowed, and those of services that are not Baton's own, against the database. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import {
  BatchCreateRunsRequestSchema,
  CreateRunRequestSchema,
  CreateRunResponseSchema,
} from '../../gen/baton/v1/job_service_pb.js';
import { LIMITS } from '../../src/base/limits.js';
import { encode } from '../../src/rpc/encode.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import { seenError } from '../support/rpc_errors.js';
import { GrpcJsClient } from '../support/rpc_grpc_client.js';
import { BINARY_ROUTES, JSON_ROUTES, type RawTarget } from '../support/raw_requests.js';
import { startTestServer, type TestServer } from '../support/server.js';

const GZIP = 2;
const numbers = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

describeOnEveryPostgres('the largest requests', (open) => {
  let database: TestDatabase;
  let baton: TestServer;
  let target: RawTarget;

  before(async () => {
    database = await open();
    baton = await startTestServer(database.url);
    target = { grpcAddress: new URL(baton.grpcUrl).host, httpUrl: baton.httpUrl };
  });

  after(async () => {
    await baton.stop();
    await database.drop();
  });

  void test('an object of 65,536 values is stored as it came', async () => {
    const input = { list: numbers(LIMITS.structValues - 1) };
    const repository = 'large';
    const binary = encode(CreateRunRequestSchema, create(CreateRunRequestSchema, { repository, input }));
    const json = Buffer.from(JSON.stringify({ repository, input }));
    for (const name of ['gRPC, gzip', 'gRPC-Web', 'Connect, br'])
      assert.equal((await BINARY_ROUTES[name]?.(target, 'CreateRun', binary))?.code, 0, name);
    assert.equal((await JSON_ROUTES['Connect JSON']?.(target, 'CreateRun', json))?.code, 0);
    const rows = await database.pool.query<{ same: boolean }>(
      'select input = $1::jsonb as same from baton.runs where repository = $2',
      [JSON.stringify(input), repository],
    );
    assert.deepEqual(
      rows.map(({ same }) => same),
      [true, true, true, true],
    );
  });

  void test('a batch of 1000 runs with nearly 250,000 values is created, and one value too many creates none', async () => {
    const requests = Array.from({ length: 1000 }, () => ({
      repository: 'batch',
      input: { list: numbers(240) },
    }));
    const bytesOf = (items: object[]): Buffer =>
      encode(BatchCreateRunsRequestSchema, create(BatchCreateRunsRequestSchema, { requests: items }));
    const send = async (bytes: Buffer): Promise<number | undefined> =>
      (await BINARY_ROUTES['gRPC, gzip']?.(target, 'BatchCreateRuns', bytes))?.code;
    const count = async (): Promise<number> =>
      (await database.pool.query(`select from baton.runs where repository = 'batch'`)).length;
    assert.equal(
      await send(bytesOf(requests.map((one) => ({ ...one, input: { list: numbers(260) } })))),
      Code.InvalidArgument,
    );
    assert.equal(await count(), 0);
    assert.equal(await send(bytesOf(requests)), 0);
    assert.equal(await count(), 1000);
  });

  void test('health takes a short question only', async () => {
    const client = new GrpcJsClient(target.grpcAddress, { 'grpc.default_compression_algorithm': GZIP });
    try {
      const check = (name: string): Promise<Buffer> => {
        const length = Buffer.byteLength(name);
        const head = [0x0a, (length & 127) | 128, ((length >> 7) & 127) | 128, length >> 14];
        return client.raw(
          '/grpc.health.v1.Health/Check',
          Buffer.concat([Buffer.from(head), Buffer.from(name)]),
        );
      };
      const { code, message } = await seenError(check('x'.repeat(1_000_000)));
      assert.equal(code, Code.InvalidArgument);
      assert.match(message, /32768 bytes/);
      assert.ok((await client.raw('/grpc.health.v1.Health/Check', Buffer.alloc(0))).length > 0);
    } finally {
      client.close();
    }
  });

  void test('an answer in binary over Connect is the one that gRPC has', async () => {
    const body = toBinary(
      CreateRunRequestSchema,
      create(CreateRunRequestSchema, { requestId: 'same', input: { a: [1, { b: null }] } }),
    );
    const { run } = await baton.jobs.createRun({ requestId: 'same', input: { a: [1, { b: null }] } });
    const response = await fetch(`${baton.httpUrl}/baton.v1.JobService/CreateRun`, {
      method: 'POST',
      headers: { 'content-type': 'application/proto' },
      body,
    });
    assert.deepEqual(
      fromBinary(CreateRunResponseSchema, new Uint8Array(await response.arrayBuffer())).run,
      run,
    );
  });
});
