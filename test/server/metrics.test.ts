/** `/metrics` of a whole server under real traffic, and what it says when parts of that server are in trouble. */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { connect as connectHttp2 } from 'node:http2';
import { createServer, connect, type AddressInfo, type Socket } from 'node:net';
import { test } from 'node:test';
import { systemClock } from '../../src/base/clock.js';
import { BatonError } from '../../src/base/errors.js';
import { LIMITS } from '../../src/base/limits.js';
import type { Metric } from '../../src/base/metrics.js';
import { Metrics } from '../../src/rpc/metrics.js';
import { MATCH_ALL } from '../../src/run/filter.js';
import type { CallContext, JobService as Jobs } from '../../src/service/api.js';
import { CallCounts, counted } from '../../src/service/gauges.js';
import { createService } from '../../src/service/service.js';
import { createPool } from '../../src/store/pool.js';
import { describeOnPostgres, silent, type TestDatabase } from '../support/database.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { assertTook, Signal, waitFor, within, withSlack } from '../support/wait.js';
import { Watching } from '../support/watching.js';

/** Samples by name and labels as they are printed: `baton_streams{state="live"}`. */
type Scrape = ReadonlyMap<string, number>;

function parse(text: string): Scrape {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const match = /^([a-z_][a-z_0-9]*(?:\{.*\})?) (\S+)$/i.exec(line);
      assert.ok(match, `not a sample: ${line}`);
      return [match[1]!, Number(match[2])] as const;
    }),
  );
}

async function scrape(baton: TestServer): Promise<Scrape> {
  const response = await fetch(`${baton.httpUrl}/metrics`);
  assert.equal(response.status, 200);
  return parse(await response.text());
}

/** Scrapes until a condition holds, and gives that scrape. */
async function scrapeUntil(
  baton: TestServer,
  what: string,
  condition: (found: Scrape) => boolean,
): Promise<Scrape> {
  let found: Scrape = new Map();
  const isThere = async (): Promise<boolean> => condition((found = await scrape(baton)));
  await waitFor(isThere, what).catch((error: unknown) => {
    const shown = [...found].filter(([name]) => name.startsWith('baton_')).join('\n');
    throw new Error(`${String(error)}\n${shown}`);
  });
  return found;
}

const CALLER: CallContext = {
  signal: new AbortController().signal,
  onUndelivered: () => undefined,
  abandon: () => undefined,
};

/** A way to the database that can fall silent without closing anything, as a network does. */
async function silentProxy(databaseUrl: string) {
  const target = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let frozen = false;
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    for (const [from, to] of [
      [client, upstream],
      [upstream, client],
    ] as const) {
      sockets.add(from);
      from.on('data', (bytes) => to.write(bytes));
      from.on('error', () => undefined);
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
      if (frozen) from.pause();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.toString(),
    freeze() {
      frozen = true;
      for (const socket of sockets) socket.pause();
    },
    thaw() {
      frozen = false;
      for (const socket of sockets) socket.resume();
    },
    async close() {
      const closed = new Promise((resolve) => server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

describeOnPostgres('/metrics', (open) => {
  const withServer =
    (
      body: (baton: TestServer, database: TestDatabase) => Promise<void>,
      settings: Parameters<typeof startTestServer>[1] = {},
    ) =>
    async (): Promise<void> => {
      const database = await open();
      const baton = await startTestServer(database.url, settings);
      try {
        await body(baton, database);
      } finally {
        await baton.stop();
        await database.drop();
      }
    };

  void test(
    'shows every metric, with what traffic has made of it',
    withServer(async (baton) => {
      const { jobs, httpJobs } = baton;
      const watching = await new Watching(jobs).opened();
      await scrapeUntil(baton, 'a live stream', (all) => all.get('baton_streams{state="live"}') === 1);
      const waiting = new AbortController();
      const wait = jobs.claimNext(
        { stage: 'run', wait: { seconds: 40n, nanos: 0 } },
        { signal: waiting.signal },
      );
      wait.catch(() => undefined);
      await jobs.createRun({ repository: 'a' });
      await httpJobs.createRun({ repository: 'b' });
      assert.equal((await jobs.claimNext({ stage: 'initialize', maxRuns: 2 })).claims.length, 2);
      await assert.rejects(jobs.getRun({ id: '00000000-0000-7000-8000-000000000000' }));
      await watching.hasEvents(4);

      const all = await scrapeUntil(
        baton,
        'the echo and the waiting claim',
        (found) =>
          found.has('baton_listen_echo_seconds') &&
          found.get('baton_claims_waiting') === 1 &&
          found.get('baton_log_head_revision')! >= found.get('baton_log_position_revision')!,
      );
      const value = (name: string): number => {
        const found = all.get(name);
        assert.ok(found !== undefined, `${name} is missing`);
        return found;
      };
      assert.equal(value('baton_listen_connected'), 1);
      assert.ok(value('baton_listen_echo_seconds') >= 0 && value('baton_listen_echo_seconds') < 5);
      assert.ok(value('baton_notification_queue_usage_ratio') >= 0);
      assert.ok(value('baton_notification_queue_usage_ratio') < 1);
      assert.ok(value('baton_polls_found_events_total') >= 0);
      assert.ok(value('baton_log_position_revision') >= 4);
      assert.ok(value('baton_log_oldest_revision') >= 1);
      assert.equal(value('baton_events_published_total'), 4);
      assert.equal(value('baton_streams{state="live"}'), 1);
      assert.equal(value('baton_streams{state="catching_up"}'), 0);
      assert.ok(value('baton_stream_held_bytes') >= 0);
      for (const reason of ['CLOSED', 'SLOW_CONSUMER', 'SERVER_STOPPING', 'RESUME_TOKEN_TOO_OLD'])
        assert.equal(value(`baton_streams_ended_total{reason="${reason}"}`), 0);
      assert.equal(value('baton_claims_handed_out_total'), 2);
      assert.equal(value('baton_limits_reached_total{limit="claim_waiters"}'), 0);
      assert.equal(value('baton_limits_reached_total{limit="streams"}'), 0);
      for (const pool of ['calls', 'watch', 'state']) {
        const [used, idle] = ['used', 'idle'].map((state) =>
          value(`baton_pool_connections{pool="${pool}",state="${state}"}`),
        );
        // Nobody has asked for a state.
        assert.ok(used! >= 0 && idle! >= 0 && used! + idle! >= (pool === 'state' ? 0 : 1));
        assert.ok(value(`baton_pool_waiting{pool="${pool}"}`) >= 0);
      }
      assert.equal(value('baton_leases_ended_total'), 0);
      assert.equal(value('baton_scheduled_runs_total'), 0);
      assert.equal(value('baton_schedule_failures_total'), 0);
      const create = 'method="baton.v1.JobService/CreateRun"';
      assert.equal(value(`baton_calls_total{${create},protocol="grpc",code="OK"}`), 1);
      assert.equal(value(`baton_calls_total{${create},protocol="connect",code="OK"}`), 1);
      const get = 'method="baton.v1.JobService/GetRun"';
      assert.equal(value(`baton_calls_total{${get},protocol="grpc",code="NOT_FOUND"}`), 1);
      assert.equal(value(`baton_call_duration_seconds_count{${create},protocol="grpc"}`), 1);
      assert.ok(value(`baton_call_duration_seconds_sum{${create},protocol="grpc"}`) > 0);
      assert.equal(value(`baton_call_duration_seconds_bucket{le="+Inf",${create},protocol="grpc"}`), 1);
      assert.ok(value('process_cpu_seconds_total') > 0);
      assert.ok(value('nodejs_eventloop_lag_seconds') >= 0);

      waiting.abort();
      await watching.cancel();
      const after = await scrapeUntil(
        baton,
        'the stream to be counted as ended',
        (found) => found.get('baton_streams_ended_total{reason="CLOSED"}') === 1,
      );
      assert.equal(after.get('baton_streams{state="live"}'), 0);
      const claim = 'method="baton.v1.JobService/ClaimNext"';
      assert.equal(after.get(`baton_calls_total{${claim},protocol="grpc",code="CANCELLED"}`), 1);
      const watch = 'method="baton.v1.JobService/WatchRuns"';
      assert.equal(after.get(`baton_calls_total{${watch},protocol="grpc",code="CANCELLED"}`), 1);
      assert.equal(after.has(`baton_call_duration_seconds_count{${watch},protocol="grpc"}`), false);
    }),
  );

  void test(
    'counts the runs that schedules have created',
    withServer(async (baton) => {
      await baton.pipelines.putPipeline({
        pipeline: {
          name: 'web',
          stages: [{ name: 'work', processingStatus: 'working', doneStatus: 'done' }],
          schedules: [{ name: 'often', cron: '* * * * * *' }],
        },
      });
      await scrapeUntil(baton, 'two ticks', (all) => all.get('baton_scheduled_runs_total')! >= 2);
    }),
  );

  void test(
    'shows a stream that is not read, and what is held for it',
    withServer(async (baton) => {
      // Read to the headers and no further; what the kernels on both sides take comes before the server's own limit.
      const json = Buffer.from('{"includePayload":true}');
      const head = Buffer.alloc(5);
      head.writeUInt32BE(json.length, 1);
      const reader = request(`${baton.httpUrl}/baton.v1.JobService/WatchRuns`, {
        method: 'POST',
        headers: { 'content-type': 'application/connect+json' },
      });
      reader.on('error', () => undefined);
      reader.end(Buffer.concat([head, json]));
      const opened = new Signal();
      reader.once('response', () => opened.send());
      await within(opened.promise, 'the stream to open');
      await scrapeUntil(baton, 'a live stream', (all) => all.get('baton_streams{state="live"}') === 1);
      const requests = Array.from({ length: 20 }, () => ({ input: { text: 'x'.repeat(100_000) } }));
      let all: Scrape = new Map();
      await waitFor(async () => {
        await baton.jobs.batchCreateRuns({ requests });
        all = await scrape(baton);
        const held = all.get('baton_stream_held_bytes') ?? 0;
        assert.ok(held <= LIMITS.streamBytes, `${held} bytes are held`);
        return all.get('baton_streams{state="catching_up"}') === 1 && held > 50_000;
      }, 'the stream to fall behind');
      reader.destroy();
      const after = await scrapeUntil(
        baton,
        'the stream to be gone',
        (found) => found.get('baton_streams{state="catching_up"}') === 0,
      );
      assert.equal(after.get('baton_stream_held_bytes'), 0);
    }),
  );

  void test(
    'counts what only the poll has found, when there are no notifications',
    withServer(
      async (baton) => {
        const watching = await new Watching(baton.jobs).opened();
        const before = await scrapeUntil(
          baton,
          'a live stream',
          (all) => all.get('baton_streams{state="live"}') === 1,
        );
        // The look that follows a new demand is no poll; what comes after it can be found by a poll only.
        await baton.jobs.createRun({});
        await watching.hasEvents(1);
        await baton.jobs.createRun({});
        await watching.hasEvents(2);
        const name = 'baton_polls_found_events_total';
        await scrapeUntil(baton, 'a poll that found something', (all) => all.get(name)! > before.get(name)!);
        assert.equal(before.has('baton_listen_connected'), false);
        assert.equal(before.has('baton_listen_echo_seconds'), false);
        await watching.cancel();
      },
      { listen: false },
    ),
  );

  void test(
    'counts a lease whose time is over',
    withServer(async (baton, database) => {
      await baton.jobs.createRun({});
      await baton.jobs.claimNext({ stage: 'initialize' });
      await database.pool.query(
        `update baton.runs set lease_expire_time = clock_timestamp() - interval '1 s'`,
      );
      await scrapeUntil(baton, 'the lease to be ended', (all) => all.get('baton_leases_ended_total') === 1);
    }),
  );

  void test(
    'counts streams by the reason of their end',
    withServer(
      async (baton) => {
        const watching = await new Watching(baton.jobs).opened();
        await watching.end();
        const all = await scrape(baton);
        assert.equal(all.get('baton_streams_ended_total{reason="SERVER_STOPPING"}'), 1);
        assert.equal(all.get('baton_streams_ended_total{reason="CLOSED"}'), 0);
      },
      { streamAgeMs: { min: 1, max: 2 } },
    ),
  );

  void test('counts a stream that was ended because it stood still, and one that was refused', async () => {
    const database = await open();
    const pools = [1, 2, 3].map(() =>
      createPool({ databaseUrl: database.url, connections: 2, log: silent }),
    ) as [typeof database.pool, typeof database.pool, typeof database.pool];
    const service = createService({
      pool: pools[0],
      watchPool: pools[1],
      statePool: pools[2],
      listenUrl: undefined,
      retention: { logMs: 0, runsMs: 0, partitionRevisions: 1_000_000 },
      streams: { ageMs: undefined, stallMs: 50 },
      clock: systemClock,
      log: silent,
    });
    await service.start();
    try {
      const metrics = new Metrics({ metrics: service.metrics, log: silent });
      const watch = {
        filter: MATCH_ALL,
        after: '',
        includeState: false,
        includePayload: false,
        untilTerminal: false,
        bookmarkIntervalMs: 0,
      };
      const stream = await service.jobs.watchRuns(watch, CALLER);
      // Its writer has one message in hand and never comes back for another.
      assert.equal((await stream.next())?.kind, 'OPENED');
      await waitFor(async () => {
        const all = parse(await metrics.render());
        return all.get('baton_streams_ended_total{reason="SLOW_CONSUMER"}') === 1;
      }, 'the stalled stream to be ended');
      const streams = Array.from({ length: LIMITS.streams }, () =>
        service.hub.open(MATCH_ALL, false, '', 0n, LIMITS.bookmarkDefaultMs),
      );
      await assert.rejects(service.jobs.watchRuns(watch, CALLER), { reason: 'OVERLOADED' });
      const all = parse(await metrics.render());
      assert.equal(all.get('baton_limits_reached_total{limit="streams"}'), 1);
      assert.equal(all.get('baton_streams{state="catching_up"}'), LIMITS.streams);
      for (const one of streams) one.close();
    } finally {
      await service.stop();
      await Promise.all(pools.map((pool) => pool.close()));
      await database.drop();
    }
  });

  void test('answers while the database is silent, without what only the database knows', async () => {
    const database = await open();
    const proxy = await silentProxy(database.url);
    const baton = await startTestServer(proxy.url);
    const usage = 'baton_notification_queue_usage_ratio';
    try {
      await scrapeUntil(baton, 'the queue usage', (all) => all.has(usage));
      proxy.freeze();
      // What was read a moment ago may be shown for its time; then it is absent, and never older.
      const deadline = performance.now() + withSlack(8000);
      let longestMs = 0;
      let all: Scrape;
      do {
        const startedAt = performance.now();
        all = await within(scrape(baton), 'a scrape without a database', 5000);
        longestMs = Math.max(longestMs, performance.now() - startedAt);
      } while (all.has(usage) && performance.now() < deadline);
      assertTook('a scrape without a database', longestMs, 3000);
      assert.equal(all.has(usage), false);
      assert.equal(all.has('baton_log_head_revision'), false);
      assert.ok(all.has('baton_streams{state="live"}'));
      assert.ok(all.has('process_cpu_seconds_total'));
      proxy.thaw();
      await scrapeUntil(baton, 'the queue usage to be back', (found) => found.has(usage));
    } finally {
      proxy.thaw();
      await baton.stop();
      await proxy.close();
      await database.drop();
    }
  });

  void test(
    'takes GET and HEAD, over HTTP/1.1 and HTTP/2',
    withServer(async (baton) => {
      const url = `${baton.httpUrl}/metrics?name=ignored`;
      const got = await fetch(url);
      assert.match(got.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
      assert.match(await got.text(), /^# HELP baton_calls_total /);
      const head = await fetch(url, { method: 'HEAD' });
      assert.equal(head.status, 200);
      assert.equal(await head.text(), '');
      const post = await fetch(url, { method: 'POST', body: 'x' });
      assert.equal(post.status, 405);
      assert.equal(post.headers.get('allow'), 'GET, HEAD');
      const session = connectHttp2(baton.httpUrl);
      const response = session.request({ ':path': '/metrics' }).setEncoding('utf8');
      let text = '';
      for await (const chunk of response) text += String(chunk);
      assert.ok(parse(text).size > 50);
      session.close();
    }),
  );
});

void test('metrics: one that cannot be read is missing, and the others are there', async () => {
  const metric = (name: string, read: Metric['read'], labels: string[] = []): Metric => ({
    name,
    help: 'A test.',
    type: 'gauge',
    labels,
    read,
  });
  let known = true;
  const metrics = new Metrics({
    metrics: [
      metric('throws', () => {
        throw new Error('no');
      }),
      metric('rejects', () => Promise.reject(new Error('no'))),
      metric('sometimes', () => (known ? 1 : undefined)),
      metric('by_label', () => (known ? [{ labels: { a: 'b' }, value: 2 }] : []), ['a']),
    ],
    log: silent,
  });
  const named = async (): Promise<string[]> =>
    [...parse(await metrics.render())]
      .filter(([name]) => !/^(process|nodejs|baton)_/.test(name))
      .map(([name, value]) => `${name} ${value}`);
  assert.deepEqual(await named(), ['sometimes 1', 'by_label{a="b"} 2']);
  known = false;
  assert.deepEqual(await named(), []);
});

void test('metrics: a call that was refused for its limit is counted under it, and other failures are not', async () => {
  const counts = new CallCounts();
  let error = new BatonError('OVERLOADED', 'too much');
  const jobs = counted(
    { claimNext: () => Promise.reject(error), watchRuns: () => Promise.reject(error) } as unknown as Jobs,
    counts,
  );
  const claim = {
    pipeline: '',
    stage: 'run',
    workerId: '',
    maxRuns: 1,
    waitMs: 0,
    leaseMs: 0,
    requestId: '',
  };
  await assert.rejects(jobs.claimNext(claim, CALLER), error);
  error = new BatonError('STAGE_NOT_FOUND', 'no stage');
  await assert.rejects(jobs.claimNext(claim, CALLER), error);
  assert.deepEqual(counts.limits.samples('limit'), [
    { labels: { limit: 'claim_waiters' }, value: 1 },
    { labels: { limit: 'streams' }, value: 0 },
  ]);
});
