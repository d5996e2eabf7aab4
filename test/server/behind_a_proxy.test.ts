/** What docs/behind_a_proxy.md says, by the very configurations that stand there. */
import assert from 'node:assert/strict';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { LookupFunction } from 'node:net';
import { after, before, beforeEach, describe, test } from 'node:test';
import { Code, ConnectError, createClient, type Client } from '@connectrpc/connect';
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
} from '@connectrpc/connect-node';
import { credentials, Client as GrpcClient, status as GrpcCode, type ServiceError } from '@grpc/grpc-js';
import { JobService, WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { invalidArgument } from '../../src/base/errors.js';
import { freePorts } from '../support/free_ports.js';
import {
  adapt,
  configurations,
  lacking,
  makeCertificate,
  NAME,
  Proxy,
  type ProxyName,
} from '../support/proxies.js';
import { temporaryDir } from '../support/process.js';
import { FakeStream, message, OPENED, sampleRun } from '../support/rpc_fake.js';
import { startServers, type Servers } from '../support/rpc_servers.js';
import { waitFor, within } from '../support/wait.js';

/** In place of the 120 s of the page, so that a test can see it pass. */
const PROXY_TIMEOUT_MS = 4000;
/** Ten times what a proxy that holds nothing back may take on a machine that has nothing else to do. */
const PASSED_ON_MS = 10_000;

interface Rig {
  readonly servers: Servers;
  readonly streams: FakeStream[];
  readonly main: number;
  readonly grpc: number;
  readonly ca: Buffer;
  stop(): Promise<void>;
}

/** More than nginx takes by default. */
const BIG = 2 * 1024 * 1024;

async function startRig(proxy: ProxyName, hosts: readonly string[] = [NAME]): Promise<Rig> {
  const streams: FakeStream[] = [];
  const violations = Array.from({ length: 20 }, (_, i) => ({
    field: `requests[${i}].labels["${'k'.repeat(60)}"]`,
    description: 'ä'.repeat(100),
  }));
  const servers = await startServers({
    jobs: {
      getRun: (id) => Promise.resolve(sampleRun({ id })),
      createRun: () => Promise.resolve(sampleRun()),
      batchCreateRuns: () => Promise.reject(invalidArgument(violations)),
      watchRuns: () => {
        streams.push(new FakeStream().push(OPENED));
        return Promise.resolve(streams.at(-1)!);
      },
    },
    http: { gate: { hosts: new Set(hosts), origins: new Set() } },
  });
  const dir = await temporaryDir();
  const { key, crt, pem, ca } = await makeCertificate(dir.path);
  const [main = 0, grpc = 0] = await freePorts(2);
  const [config = ''] = await configurations(proxy);
  const backends = { '127.0.0.1:8080': `127.0.0.1:${servers.http.port}`, '120s': `${PROXY_TIMEOUT_MS}ms` };
  const changes =
    proxy === 'nginx'
      ? {
          '/etc/ssl/baton.crt': crt,
          '/etc/ssl/baton.key': key,
          'listen 443 ': `listen 127.0.0.1:${main} `,
          'listen 50051 ': `listen 127.0.0.1:${grpc} `,
        }
      : {
          '/etc/ssl/baton.pem': pem,
          'bind :443 ': `bind 127.0.0.1:${main} `,
          'bind :50051 ': `bind 127.0.0.1:${grpc} `,
        };
  const grpcBackend = { '127.0.0.1:50051': `127.0.0.1:${servers.grpc.port}` };
  const text = adapt(config, { ...grpcBackend, ...backends, ...changes });
  const running = await Proxy.start(proxy, dir.path, text, [main, grpc]);
  const stop = async (): Promise<void> => {
    await running.stop();
    await servers[Symbol.asyncDispose]();
    await dir.remove();
  };
  return { servers, streams, main, grpc, ca, stop };
}

/** All names lead to this machine. */
const lookup: LookupFunction = (_name, options, done) => {
  if (options.all === true) done(null, [{ address: '127.0.0.1', family: 4 }]);
  else done(null, '127.0.0.1', 4);
};

type Jobs = Client<typeof JobService>;

function clients({ main, grpc, ca }: Rig): Record<string, Jobs> {
  const nodeOptions = { ca, lookup };
  const at = (port: number): string => `https://${NAME}:${port}`;
  const [baseUrl, grpcUrl] = [at(main), at(grpc)];
  const transports = {
    'Connect JSON over HTTP/1.1': createConnectTransport({
      baseUrl,
      httpVersion: '1.1',
      useBinaryFormat: false,
      nodeOptions,
    }),
    'Connect over HTTP/2': createConnectTransport({ baseUrl, httpVersion: '2', nodeOptions }),
    'gRPC-Web over HTTP/1.1': createGrpcWebTransport({ baseUrl, httpVersion: '1.1', nodeOptions }),
    'gRPC-Web over HTTP/2': createGrpcWebTransport({ baseUrl, httpVersion: '2', nodeOptions }),
    'gRPC on the HTTP port': createGrpcTransport({ baseUrl, nodeOptions }),
    'gRPC on the gRPC port': createGrpcTransport({ baseUrl: grpcUrl, nodeOptions }),
  };
  return Object.fromEntries(
    Object.entries(transports).map(([name, transport]) => [name, createClient(JobService, transport)]),
  );
}

function get(rig: Rig, path: string, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const { main: port, ca } = rig;
  return new Promise((resolve, reject) => {
    httpsRequest({ host: NAME, servername: NAME, port, path, ca, lookup, headers, agent: false }, resolve)
      .on('error', reject)
      .end();
  });
}

/** Watches, and looks at each message before the next one is made: what a proxy collects would not come. */
async function watchThrough(jobs: Jobs, rig: Rig): Promise<void> {
  const leaving = new AbortController();
  const stream = jobs.watchRuns({}, { signal: leaving.signal })[Symbol.asyncIterator]();
  const first = await within(stream.next(), 'OPENED', PASSED_ON_MS);
  assert.equal((first.value as { kind: WatchKind }).kind, WatchKind.OPENED);
  const source = rig.streams.at(-1)!;
  for (const revision of [1n, 2n, 3n]) {
    source.push(message({ revision }));
    const next = await within(stream.next(), `message ${revision}`, PASSED_ON_MS);
    assert.equal((next.value as { revision: bigint }).revision, revision);
  }
  leaving.abort();
  await stream.next().catch(() => undefined);
  await waitFor(() => source.closed, 'the stream to be closed in the server', PASSED_ON_MS);
}

function overGrpcJs({ main, grpc, ca }: Rig, path: string, body: Uint8Array): Promise<ServiceError | null>[] {
  return [main, grpc].map((port) => {
    const names = { 'grpc.ssl_target_name_override': NAME, 'grpc.default_authority': `${NAME}:${port}` };
    const client = new GrpcClient(`127.0.0.1:${port}`, credentials.createSsl(ca), names);
    return new Promise<ServiceError | null>((resolve) => {
      client.makeUnaryRequest(
        path,
        (b: Uint8Array) => Buffer.from(b),
        (b) => b,
        body,
        (error) => resolve(error),
      );
    }).finally(() => client.close());
  });
}

for (const proxy of ['nginx', 'haproxy'] as const) {
  const lacks = lacking(proxy);
  const skip = lacks !== undefined && process.env['BATON_REQUIRE_ALL'] !== '1' ? lacks : false;
  void describe(`behind ${proxy}`, { skip }, () => {
    let rig: Rig;
    before(async () => {
      assert.equal(lacks, undefined);
      rig = await startRig(proxy);
    });
    // Where the server answered the checks of the proxy too late, since the machine is busy, the proxy takes it for ill.
    beforeEach(async () => {
      const isWell = async (): Promise<boolean> => (await get(rig, '/')).resume().statusCode === 200;
      await waitFor(isWell, 'the proxy to take the server for well', 3 * PASSED_ON_MS);
    });
    after(() => rig.stop());

    void test('calls are answered, small and large, whatever they speak', async () => {
      for (const [name, jobs] of Object.entries(clients(rig))) {
        assert.equal((await within(jobs.getRun({ id: name }), name, PASSED_ON_MS)).run?.id, name);
        await jobs.createRun({ input: { text: 'x'.repeat(BIG) } }).then(
          ({ run }) => assert.equal(run?.status, 'running', name),
          // Of a size that the contract refuses, Baton says so and not the proxy.
          (error: unknown) =>
            assert.equal(ConnectError.from(error).code, Code.InvalidArgument, `${name}: ${String(error)}`),
        );
      }
    });

    void test('each message of a stream comes at once, and a client that leaves is gone', async () => {
      for (const [name, jobs] of Object.entries(clients(rig))) {
        await watchThrough(jobs, rig).catch((error: unknown) => {
          throw new Error(`${name}: ${String(error)}`, { cause: error });
        });
      }
    });

    void test('so does each line of /v1/events, in both forms', async () => {
      for (const accept of ['*/*', 'text/event-stream']) {
        const response = await within(get(rig, '/v1/events', { accept }), 'the headers', PASSED_ON_MS);
        assert.equal(response.statusCode, 200);
        let text = '';
        response.on('data', (chunk: Buffer) => (text += chunk.toString())).on('error', () => undefined);
        await waitFor(() => text.includes('OPENED'), `OPENED in ${accept}`, PASSED_ON_MS);
        const source = rig.streams.at(-1)!;
        source.push(message({ revision: 77n }));
        await waitFor(() => text.includes('"77"'), `a bookmark in ${accept}`, PASSED_ON_MS);
        response.destroy();
        await waitFor(() => source.closed, 'the stream to be closed in the server', PASSED_ON_MS);
      }
    });

    void test('bookmarks keep a stream open that is older than any timeout; without them it is cut', async () => {
      const all = Object.entries(clients(rig)).map(async ([name, jobs]) => {
        const stream = jobs.watchRuns({})[Symbol.asyncIterator]();
        await stream.next();
        return { name, stream, revision: 0n };
      });
      const watches = await within(Promise.all(all), 'all streams', 3 * PASSED_ON_MS);
      const sources = rig.streams.slice(-watches.length);
      const end = performance.now() + 1.5 * PROXY_TIMEOUT_MS;
      for (let revision = 1n; performance.now() < end; revision++) {
        for (const source of sources) source.push(message({ revision }));
        for (const { name, stream } of watches) {
          const next = await within(stream.next(), `a bookmark over ${name}`, PASSED_ON_MS);
          assert.equal((next.value as { revision: bigint }).revision, revision, name);
        }
        const next = performance.now() + PROXY_TIMEOUT_MS / 16;
        await waitFor(() => performance.now() >= next, 'the next bookmark to be due');
      }
      const silent = watches.map(({ name, stream }) =>
        assert.rejects(
          within(stream.next(), `the proxy to cut ${name}`, 10 * PROXY_TIMEOUT_MS),
          ConnectError,
        ),
      );
      await Promise.all(silent);
    });

    void test('errors come through whole, and as what they are', async () => {
      for (const [name, jobs] of Object.entries(clients(rig))) {
        const error = ConnectError.from(
          await jobs.batchCreateRuns({}).then(
            () => undefined,
            (e: unknown) => e,
          ),
        );
        assert.equal(error.code, Code.InvalidArgument, `${name}: ${error.message}`);
        assert.equal(error.details.length, 2, name);
      }
      const unknown = await Promise.all(overGrpcJs(rig, '/baton.v1.JobService/Nothing', Buffer.alloc(0)));
      assert.deepEqual(
        unknown.map((error) => error?.code),
        [GrpcCode.UNIMPLEMENTED, GrpcCode.UNIMPLEMENTED],
      );
    });

    void test('the name that the client asked for reaches the gate', async () => {
      const good = await get(rig, '/');
      assert.equal(good.resume().statusCode, 200);
      const bad = await get(rig, '/', { host: 'evil.test' });
      assert.equal(bad.resume().statusCode, 421);
      const page = await get(rig, '/v1/events', { origin: `https://${NAME}:${rig.main}` });
      // nginx's $host has no port, so this old browser looks as if it came from another one.
      assert.equal(page.statusCode, proxy === 'nginx' ? 403 : 200);
      page.destroy();
      const modern = await get(rig, '/v1/events', {
        'sec-fetch-site': 'same-origin',
        origin: `https://${NAME}`,
      });
      assert.equal(modern.statusCode, 200);
      modern.destroy();
      const other = await get(rig, '/v1/events', {
        'sec-fetch-site': 'cross-site',
        origin: 'https://evil.test',
      });
      assert.equal(other.resume().statusCode, 403);
    });
  });
}

const lacksNginx = lacking('nginx');
const skipNginx = lacksNginx !== undefined && process.env['BATON_REQUIRE_ALL'] !== '1' ? lacksNginx : false;

void test('nginx with its defaults holds nothing back', { skip: skipNginx }, async () => {
  assert.equal(lacksNginx, undefined);
  const stream = new FakeStream().push(OPENED);
  await using servers = await startServers({ jobs: { watchRuns: () => Promise.resolve(stream) } });
  const dir = await temporaryDir();
  const [port = 0] = await freePorts(1);
  const [, location = ''] = await configurations('nginx');
  const text = adapt(location, { '127.0.0.1:8080': `127.0.0.1:${servers.http.port}` });
  const proxy = await Proxy.start('nginx', dir.path, `server { listen 127.0.0.1:${port}; ${text} }`, [port]);
  try {
    for (const type of ['application/connect+json', 'application/grpc-web+proto']) {
      const body = type.endsWith('json') ? '\0\0\0\0\x02{}' : '\0\0\0\0\0';
      let seen = 0;
      const options = {
        port,
        path: '/baton.v1.JobService/WatchRuns',
        method: 'POST',
        headers: { 'content-type': type },
      };
      const sent = httpRequest(options, (response) => {
        response.on('data', (chunk: Buffer) => (seen += chunk.length)).on('error', () => undefined);
      });
      sent.on('error', () => undefined).end(body);
      if (type.includes('web')) stream.push(OPENED);
      await waitFor(() => seen > 0, `the first message over ${type}`, PASSED_ON_MS);
      sent.destroy();
    }
  } finally {
    await proxy.stop();
    await dir.remove();
  }
});
