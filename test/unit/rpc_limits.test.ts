/** What one request may hold, over every way that it can come by. */
import assert from 'node:assert/strict';
import { connect, type IncomingHttpHeaders } from 'node:http2';
import { after, before, describe, test } from 'node:test';
import { brotliCompressSync } from 'node:zlib';
import { Code } from '@connectrpc/connect';
import {
  BINARY_ROUTES,
  connectOutcome,
  JSON_ROUTES,
  STREAM_ROUTES,
  type RawOutcome,
  type RawRoute,
  type RawTarget,
} from '../support/raw_requests.js';
import { ManualClock } from '../support/manual_clock.js';
import { FakeStream, OPENED, sampleRun } from '../support/rpc_fake.js';
import { Budget } from '../../src/rpc/budget.js';
import { Intake } from '../../src/rpc/intake.js';
import { startServers, until, within, type Servers } from '../support/rpc_servers.js';

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest > 127; rest = Math.floor(rest / 128)) bytes.push((rest & 127) | 128);
  return Buffer.from([...bytes, rest]);
}

function field(number: number, bytes: Buffer): Buffer {
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

const repeat = (bytes: Buffer | number[], times: number): Buffer =>
  Buffer.alloc(bytes.length * times, Buffer.from(bytes));

const nan = Buffer.alloc(9, 0x11);
nan.writeDoubleLE(NaN, 1);

/** An input of one list under one key. */
const list = (key: string, item: Buffer, times: number): Buffer =>
  field(
    4,
    field(1, Buffer.concat([field(1, Buffer.from(key)), field(2, field(6, repeat(field(1, item), times)))])),
  );

const MOST_VALUES = /at most 250000 values/;

interface Hostile {
  readonly method: string;
  readonly body: Buffer;
  readonly fields: readonly string[];
  readonly says: RegExp;
}

/** Requests that took a server's memory or time; all of them are refused, and say why. */
const BINARY: Readonly<Record<string, Hostile>> = {
  'wrong numbers under a long key': {
    method: 'CreateRun',
    body: list('k'.repeat(40_000), nan, 6000),
    fields: Array.from({ length: 20 }, () => `input.${'k'.repeat(193)}…`),
    says: /; and 5\d{3} more$/,
  },
  'a list of wrong numbers': {
    method: 'CreateRun',
    body: list('k', nan, 100_000),
    fields: ['input'],
    says: /at most 65536 values, has 100001/,
  },
  'a few states too many': {
    method: 'ListRuns',
    body: field(1, field(5, Buffer.alloc(10_000))),
    fields: ['filter.states'],
    says: /at most 100 values, has 10000/,
  },
  'millions of states': {
    method: 'ListRuns',
    body: field(1, field(5, Buffer.alloc(3_000_000))),
    fields: ['filter.states'],
    says: MOST_VALUES,
  },
  'states with a tag each': {
    method: 'ListRuns',
    body: field(1, repeat([0x28, 0], 1_000_000)),
    fields: ['filter.states'],
    says: MOST_VALUES,
  },
  'empty items': {
    method: 'BatchCreateRuns',
    body: repeat([0x0a, 0], 1_000_000),
    fields: ['requests'],
    says: MOST_VALUES,
  },
  'empty leases': {
    method: 'ExtendLeases',
    body: repeat([0x0a, 0], 1_000_000),
    fields: ['leases'],
    says: MOST_VALUES,
  },
  'empty labels': {
    method: 'CreateRun',
    body: repeat([0x1a, 0], 200_000),
    fields: ['labels'],
    says: /at most 32 labels, has 200000/,
  },
  'empty values': {
    method: 'CreateRun',
    body: list('k', Buffer.alloc(0), 500_000),
    fields: ['input'],
    says: MOST_VALUES,
  },
  'fields that nobody knows': {
    method: 'CreateRun',
    body: repeat([0xf8, 0x7f, 1], 500_000),
    fields: [],
    says: MOST_VALUES,
  },
  'one field again and again': {
    method: 'CreateRun',
    body: repeat([0x12, 0], 500_000),
    fields: ['repository'],
    says: MOST_VALUES,
  },
};

const json = (text: string, fields: readonly string[], says: RegExp, method = 'CreateRun'): Hostile => ({
  method,
  body: Buffer.from(text),
  fields,
  says,
});

const JSON_TEXTS: Readonly<Record<string, Hostile>> = {
  zeros: json(`{"input":{"a":[${'0,'.repeat(7_000_000)}0]}}`, [], MOST_VALUES),
  'empty objects': json(`{"input":{"a":[${'{},'.repeat(500_000)}0]}}`, [], MOST_VALUES),
  labels: json(
    `{"labels":{${Array.from({ length: 100_000 }, (_, i) => `"${i}":""`).join()}}}`,
    ['labels'],
    /at most 32 labels, has 100000/,
  ),
  states: json(
    `{"filter":{"states":[${'0,'.repeat(10_000)}0]}}`,
    ['filter.states'],
    /at most 100 values, has 10001/,
    'ListRuns',
  ),
  items: json(
    `{"requests":[${'{},'.repeat(1000)}{}]}`,
    ['requests'],
    /at most 1000 items, has 1001/,
    'BatchCreateRuns',
  ),
  'an object with too much in it': json(
    `{"input":{"a":[${'0,'.repeat(65_536)}0]}}`,
    ['input'],
    /at most 65536 values, has 65538/,
  ),
  'brackets without end': json(`{"input":{"a":${'['.repeat(100_000)}`, [], /at most 30 deep/),
};

async function getOverHttp2(url: string, query: string): Promise<string> {
  const session = connect(url);
  try {
    const stream = session.request({ ':path': `/baton.v1.JobService/GetRun?connect=v1&${query}` });
    return Buffer.concat(await stream.toArray()).toString();
  } finally {
    session.close();
  }
}

void describe('a request that holds too much', () => {
  let servers: Servers;
  let target: RawTarget;

  before(async () => {
    servers = await startServers({
      jobs: {
        getRun: () => Promise.resolve(sampleRun()),
        watchRuns: () => Promise.resolve(new FakeStream().push(OPENED, undefined)),
      },
    });
    target = { grpcAddress: `127.0.0.1:${servers.grpc.port}`, httpUrl: servers.url };
  });

  after(async () => {
    await servers[Symbol.asyncDispose]();
  });

  const refused = (outcome: RawOutcome, { fields, says }: Hostile): void => {
    assert.deepEqual(
      [outcome.code, outcome.reason],
      [Code.InvalidArgument, 'INVALID_ARGUMENT'],
      outcome.message,
    );
    assert.match(outcome.message, says);
    // Trailers may have room for fewer.
    assert.deepEqual(outcome.fields, fields.slice(0, outcome.fields.length));
    assert.ok(fields.length === 0 || outcome.fields.length > 0);
    assert.ok(outcome.bytes < 32_000, `the answer has ${outcome.bytes} bytes`);
  };

  const each = (
    routes: Readonly<Record<string, RawRoute>>,
    cases: Readonly<Record<string, Hostile>>,
  ): void => {
    for (const [name, hostile] of Object.entries(cases)) {
      void test(`${name}: is refused by every way it can come`, async () => {
        for (const route of Object.values(routes))
          refused(await route(target, hostile.method, hostile.body), hostile);
      });
    }
  };
  each(BINARY_ROUTES, BINARY);
  each(JSON_ROUTES, JSON_TEXTS);

  void test('the request of a stream as well', async () => {
    const states = { method: 'WatchRuns', fields: ['filter.states'], says: MOST_VALUES };
    const body = field(1, field(5, Buffer.alloc(3_000_000)));
    for (const route of [
      ...Object.values(STREAM_ROUTES.binary),
      BINARY_ROUTES['gRPC, gzip'],
      BINARY_ROUTES['gRPC-Web'],
    ])
      refused(await route!(target, 'WatchRuns', body), { ...states, body });
    const text = Buffer.from(`{"filter":{"states":[${'0,'.repeat(1000)}0]}}`);
    for (const route of Object.values(STREAM_ROUTES.json))
      refused(await route(target, 'WatchRuns', text), { ...states, body: text, says: /has 1001/ });
    for (const route of Object.values(STREAM_ROUTES.binary))
      assert.equal((await route(target, 'WatchRuns', Buffer.alloc(0))).code, 0);
    for (const route of Object.values(STREAM_ROUTES.json))
      assert.equal((await route(target, 'WatchRuns', Buffer.from('{}'))).code, 0);
  });

  void test('what is larger than 16 MiB, also when unpacked, is INVALID_ARGUMENT and no overload', async () => {
    const large = field(1, Buffer.alloc(16 * 1024 * 1024, 0x61));
    const tooLarge = { method: 'GetRun', body: large, fields: [], says: /larger than 16777216 bytes/ };
    for (const [name, route] of Object.entries(BINARY_ROUTES)) {
      const outcome = await route(target, 'GetRun', large);
      refused(outcome, tooLarge);
      assert.equal(outcome.hasRetryInfo, false, name);
    }
    const text = Buffer.from(`{"id":"${large.toString('latin1', 8)}"}`.padEnd(17_000_000));
    for (const route of Object.values(JSON_ROUTES)) refused(await route(target, 'GetRun', text), tooLarge);
    for (const route of Object.values(STREAM_ROUTES.binary))
      refused(await route(target, 'WatchRuns', large), tooLarge);
  });

  void test('what is damaged in its compression, or empty, is told so', async () => {
    const send = async (headers: Record<string, string>, body: Buffer): Promise<RawOutcome> =>
      connectOutcome(
        await fetch(`${servers.url}/baton.v1.JobService/GetRun`, {
          method: 'POST',
          headers: { 'content-type': 'application/json', ...headers },
          body,
        }),
      );
    const broken = await send({ 'content-encoding': 'gzip' }, Buffer.from('no gzip'));
    assert.deepEqual([broken.code, broken.reason], [Code.InvalidArgument, 'INVALID_ARGUMENT']);
    assert.match(broken.message, /decompress/);
    const unknown = await send({ 'content-encoding': 'zstd' }, Buffer.from('{}'));
    assert.deepEqual([unknown.code, unknown.reason], [Code.Unimplemented, 'NOT_IMPLEMENTED']);
    assert.equal((await send({}, Buffer.alloc(0))).code, Code.InvalidArgument);
    const packed = await send({ 'content-encoding': 'br' }, brotliCompressSync('{"id":"x"}'));
    assert.equal(packed.code, 0);
  });

  const get = async (query: string): Promise<RawOutcome> =>
    connectOutcome(await fetch(`${servers.url}/baton.v1.JobService/GetRun?connect=v1&${query}`));

  void test('a GET has its message as it is, and at most 16 KiB of it', async () => {
    const message = (id: string): string => encodeURIComponent(JSON.stringify({ id }));
    assert.equal((await get(`encoding=json&message=${message('x')}`)).code, 0);
    assert.equal((await get('encoding=proto&base64=1&message=CgF4')).code, 0);
    const states = brotliCompressSync(field(1, field(5, Buffer.alloc(3_000_000)))).toString('base64url');
    for (const query of [
      `encoding=proto&base64=1&compression=br&message=${states}`,
      'encoding=json&compression=gzip&message=%7B%7D',
      'encoding=json&base64=1&message=%21',
      'encoding=json&message=%7B',
    ])
      assert.deepEqual((await get(query)).reason, 'INVALID_ARGUMENT', query);
    // Over HTTP/1.1 Node refuses a URL of this length by itself.
    const long = await getOverHttp2(servers.url, `encoding=json&message=${message('x'.repeat(20_000))}`);
    assert.match(long, /"invalid_argument".*at most 16384 bytes/);
  });
});

/** An upload over HTTP/2 that says how long its message is, sends half of it, and leaves it at that. */
interface Upload {
  readonly answered: Promise<string>;
  readonly end: () => void;
}

function uploadHalf(url: string, type: string, size: number): Upload {
  const session = connect(url);
  const stream = session.request({
    ':method': 'POST',
    ':path': '/baton.v1.JobService/GetRun',
    'content-type': type,
    te: 'trailers',
  });
  const head = Buffer.alloc(5);
  head.writeUInt32BE(size, 1);
  stream.write(Buffer.concat([head, Buffer.alloc(size / 2)]));
  const answered = new Promise<string>((resolve) => {
    const status = (headers: IncomingHttpHeaders): void => {
      if (headers['grpc-status'] !== undefined) resolve(String(headers['grpc-status']));
    };
    stream
      .on('response', status)
      .on('trailers', status)
      .on('error', () => {})
      .resume();
  });
  return { answered, end: () => session.destroy() };
}

void test('bytes of requests that never end have a budget, and make room for others when it is full, by either port', async () => {
  const clock = new ManualClock();
  const budget = new Budget(3_000_000, clock);
  const intake = new Intake(budget);
  await using servers = await startServers({ intake, jobs: { getRun: () => Promise.resolve(sampleRun()) } });
  const held = 1_400_000;
  for (const url of [`http://127.0.0.1:${servers.grpc.port}`, servers.url]) {
    const upload = (): Upload => uploadHalf(url, 'application/grpc+proto', 2 * held);
    const uploads = [upload(), upload()];
    // Both and a part for each of their pieces, of which there are some hundred.
    await until('both are held', () => budget.heldBytes > 2 * held && budget.heldBytes < 2.2 * held);
    const both = budget.heldBytes;
    const refused = upload();
    assert.equal(await within('the refusal', refused.answered), String(Code.ResourceExhausted));
    // What was refused has no part of it any more, although its client holds the stream open.
    await until('it is let go', () => budget.heldBytes === both);
    // Small ones go on meanwhile.
    for (const jobs of Object.values(servers.jobs))
      await within('a call beside them', jobs.getRun({ id: 'x' }));
    clock.skip(10_000);
    const next = upload();
    const dropped = await within('one of the others', Promise.race(uploads.map(({ answered }) => answered)));
    assert.equal(dropped, String(Code.ResourceExhausted));
    for (const { end } of [...uploads, refused, next]) end();
    await until('all is given back', () => budget.heldBytes === 0);
  }
});
