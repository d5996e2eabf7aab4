/** Keys of labels and objects that languages and libraries take for something else. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { create, type JsonObject } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import {
  CancelRunsRequestSchema,
  CreateRunRequestSchema,
  ListRunsRequestSchema,
  UpdateStatusRequestSchema,
  WatchRunsRequestSchema,
} from '../../gen/baton/v1/job_service_pb.js';
import { RunFilterSchema } from '../../gen/baton/v1/filter_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import { watchRuns } from '../../src/client/index.js';
import { encode } from '../../src/rpc/encode.js';
import { describeOnEveryPostgres, type TestDatabase } from '../support/database.js';
import {
  BINARY_ROUTES,
  JSON_ROUTES,
  STREAM_ROUTES,
  type RawOutcome,
  type RawTarget,
} from '../support/raw_requests.js';
import { startTestServer, type TestServer } from '../support/server.js';

/** Names that every object of JavaScript has, and others that are easily lost. */
const NAMES = [
  'constructor',
  'toString',
  'hasOwnProperty',
  'valueOf',
  '__defineGetter__',
  '1',
  'a.b',
  'é',
  '𝄞',
  ' ',
];
const labels = Object.fromEntries(NAMES.map((name) => [name, `of ${name}`]));
const input: JsonObject = { ...labels, '': 'empty', deep: [{ ...labels }] };
const PROTO = Object.fromEntries([['__proto__', 'x']]);
const protoFilter = Object.assign(create(RunFilterSchema), { labels: PROTO });

describeOnEveryPostgres('keys of labels and objects', (open) => {
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

  /** Sends a request that a library for JavaScript would not send, by every way there is. */
  const byEveryRoute = async (
    method: string,
    binary: Buffer,
    json: object,
    check: (outcome: RawOutcome, route: string) => void,
  ): Promise<void> => {
    const isStream = method === 'WatchRuns';
    const text = Buffer.from(JSON.stringify(json));
    const binaryRoutes = isStream ? { ...STREAM_ROUTES.binary } : BINARY_ROUTES;
    const jsonRoutes = isStream ? { ...STREAM_ROUTES.json } : JSON_ROUTES;
    for (const [name, route] of Object.entries(binaryRoutes))
      check(await route(target, method, binary), name);
    for (const [name, route] of Object.entries(jsonRoutes)) check(await route(target, method, text), name);
  };

  const refused =
    (...fields: string[]) =>
    (outcome: RawOutcome, route: string): void => {
      assert.equal(outcome.code, Code.InvalidArgument, `${route}: ${outcome.message}`);
      assert.deepEqual(outcome.fields, fields, route);
      assert.match(outcome.message, /must not have the key __proto__/, route);
    };

  const bytes = (schema: Parameters<typeof encode>[0], fields: object): Buffer =>
    encode(schema, Object.assign(create(schema), fields));

  void test('are kept exactly, from the request to lists, events and the watch', async () => {
    const { run } = await baton.jobs.createRun({ repository: 'kept', labels, input });
    const id = run?.id ?? '';
    const same = (
      seen: { labels: object; input?: JsonObject | undefined } | undefined,
      what: string,
    ): void => {
      assert.deepEqual(new Map(Object.entries(seen?.labels ?? {})), new Map(Object.entries(labels)), what);
      if (seen?.input !== undefined) assert.deepEqual(seen.input, input, what);
    };
    for (const [name, jobs] of Object.entries({ grpc: baton.jobs, json: baton.httpJobs })) {
      same((await jobs.getRun({ id })).run, `${name} get`);
      for (const [key, value] of Object.entries(labels)) {
        const { runs } = await jobs.listRuns({ filter: { labels: { [key]: value } } });
        assert.deepEqual(
          runs.map((one) => one.id),
          [id],
          `${name} list by ${key}`,
        );
        const others = await jobs.listRuns({ filter: { labels: { [key]: 'other' } } });
        assert.deepEqual(others.runs, [], `${name} list by ${key}`);
      }
    }
    for await (const message of watchRuns({
      servers: baton.grpcUrl,
      filter: { labels, runIds: [id] },
      after: 'oldest',
      includePayload: true,
    })) {
      if (message.kind !== 'event') continue;
      same(message.event.run, 'watch');
      break;
    }
    const query = new URLSearchParams({ after: 'oldest', run_id: id, until_terminal: 'true' });
    for (const [key, value] of Object.entries(labels)) query.append('label', `${key}=${value}`);
    await baton.jobs.cancelRun({ runId: id });
    const lines = (await (await fetch(`${baton.httpUrl}/v1/events?${query.toString()}`)).text())
      .trim()
      .split('\n');
    const events = lines.map((line) => JSON.parse(line) as { event?: { run: { labels: object } } });
    const runs = events.flatMap(({ event }) => event?.run ?? []);
    assert.ok(runs.length >= 2);
    for (const one of runs) same(one, 'events');
  });

  void test('of a filter never select more than they say', async () => {
    const made = await Promise.all(
      Array.from({ length: 5 }, () => baton.jobs.createRun({ labels: { team: 'a' } })),
    );
    const filter = { labels: PROTO };
    await byEveryRoute(
      'CancelRuns',
      bytes(CancelRunsRequestSchema, { filter: protoFilter }),
      { filter },
      refused('filter.labels["__proto__"]'),
    );
    await byEveryRoute(
      'ListRuns',
      bytes(ListRunsRequestSchema, { filter: protoFilter }),
      { filter },
      refused('filter.labels["__proto__"]'),
    );
    await byEveryRoute(
      'WatchRuns',
      bytes(WatchRunsRequestSchema, { filter: protoFilter }),
      { filter },
      refused('filter.labels["__proto__"]'),
    );
    const events = await fetch(`${baton.httpUrl}/v1/events?label=__proto__%3Dx`);
    assert.equal(events.status, 400);
    assert.match(await events.text(), /label\[.*__proto__/);
    await assert.rejects(async () => {
      for await (const _ of watchRuns({ servers: baton.grpcUrl, filter })) return;
    }, /__proto__/);
    for (const key of ['constructor', 'toString', 'hasOwnProperty', 'valueOf']) {
      const counts = await baton.jobs.cancelRuns({ filter: { labels: { [key]: 'x' } } });
      assert.equal(counts.matchedCount, 0n, key);
    }
    for (const { run } of made) {
      const { run: now } = await baton.jobs.getRun({ id: run?.id ?? '' });
      assert.equal(now?.state, RunState.PENDING);
    }
  });

  void test('called __proto__ are refused wherever they stand, and nothing is created', async () => {
    const repository = 'never';
    await byEveryRoute(
      'CreateRun',
      bytes(CreateRunRequestSchema, { repository, labels: PROTO }),
      { repository, labels: PROTO },
      refused('labels["__proto__"]'),
    );
    for (const odd of [PROTO, { a: [{ b: PROTO }] }]) {
      await byEveryRoute(
        'CreateRun',
        bytes(CreateRunRequestSchema, { repository, input: odd }),
        { repository, input: odd },
        refused('input'),
      );
    }
    const update = { runId: '0190b0a0-0000-7000-8000-000000000001', leaseToken: 'x', status: 'initialized' };
    const payloads = { output: PROTO, checkpoint: PROTO };
    await byEveryRoute(
      'UpdateStatus',
      bytes(UpdateStatusRequestSchema, { ...update, ...payloads }),
      { ...update, ...payloads },
      refused('output', 'checkpoint'),
    );
    const { runs } = await baton.jobs.listRuns({ filter: { repository } });
    assert.deepEqual(runs, []);
  });

  void test('that are twice, empty, too long, or no text of Unicode are as the contract says', async () => {
    const send = async (text: string): Promise<RawOutcome> =>
      (JSON_ROUTES['Connect JSON'] ?? assert.fail())(target, 'CreateRun', Buffer.from(text));
    const fieldsOf = async (text: string): Promise<readonly string[]> => (await send(text)).fields;
    assert.deepEqual(await fieldsOf('{"labels":{"":"x"}}'), ['labels[""]']);
    assert.deepEqual(await fieldsOf('{"labels":{"\\u0000":"x"}}'), ['labels["\\u0000"]']);
    assert.deepEqual(await fieldsOf('{"labels":{"\\ud800":"x"}}'), ['labels["\\ud800"]']);
    assert.deepEqual(await fieldsOf('{"input":{"\\u0000":1}}'), ['input']);
    assert.deepEqual(await fieldsOf('{"input":{"a":{"\\udc00":1}}}'), ['input']);
    assert.match((await send('{"labels":{"a":"1","a":"2"}}')).message, /same name/);
    assert.match((await send('{"input":{"a":1,"a":1}}')).message, /same name/);
    const [long] = await fieldsOf(`{"labels":{"${'k'.repeat(100_000)}":"x"}}`);
    assert.ok((long?.length ?? Infinity) <= 200);
  });
});
