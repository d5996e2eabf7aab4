/** What those ask who choose between servers, and what grpcurl asks first: health, readiness and reflection. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { create, createFileRegistry, fromBinary } from '@bufbuild/protobuf';
import {
  FileDescriptorProtoSchema,
  FileDescriptorSetSchema,
  type FileDescriptorProto,
} from '@bufbuild/protobuf/wkt';
import {
  credentials,
  makeGenericClientConstructor,
  status as GrpcCode,
  type ClientDuplexStream,
  type ClientReadableStream,
  type ServiceClientConstructor,
  type ServiceDefinition,
  type ServiceError,
} from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { service as healthService } from 'grpc-health-check';
import pg from 'pg';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { Health, HEALTH_SERVICES } from '../../src/rpc/health.js';
import { describeOnPostgres, silent, type TestDatabase } from '../support/database.js';
import { ManualClock } from '../support/manual_clock.js';
import { startTestServer, STOP_MS, type TestServer } from '../support/server.js';
import { Signal, waitFor, within } from '../support/wait.js';

const SERVICES = ['', 'baton.v1.JobService', 'baton.v1.PipelineService'];

interface HealthAnswer {
  readonly status: string;
}

/** A client of grpc.health.v1.Health, made of the definition in the package. */
class HealthClient {
  readonly #client: InstanceType<ServiceClientConstructor>;

  constructor(baton: TestServer, port: Port = 'grpc') {
    const Client = makeGenericClientConstructor(healthService, 'Health');
    this.#client = new Client(address(baton, port), credentials.createInsecure());
  }

  check(service = ''): Promise<string> {
    return new Promise((resolve, reject) => {
      const done = (error: ServiceError | null, answer: HealthAnswer): void =>
        error === null ? resolve(answer.status) : reject(error);
      this.#client['Check']!({ service }, done);
    });
  }

  /** Collects what a Watch says, and how it ends. */
  watch(service = ''): {
    readonly statuses: string[];
    readonly ended: Promise<ServiceError>;
    cancel(): void;
  } {
    const stream = this.#client['Watch']!({ service }) as ClientReadableStream<HealthAnswer>;
    const statuses: string[] = [];
    const ended = new Signal<ServiceError>();
    stream.on('data', ({ status }: HealthAnswer) => statuses.push(status));
    stream.on('error', (error: ServiceError) => ended.send(error));
    return { statuses, ended: ended.promise, cancel: () => stream.cancel() };
  }

  close(): void {
    this.#client.close();
  }
}

interface ReflectionAnswer {
  readonly listServicesResponse?: { readonly service: readonly { readonly name: string }[] };
  readonly fileDescriptorResponse?: { readonly fileDescriptorProto: readonly Uint8Array[] };
  readonly errorResponse?: { readonly errorCode: number };
}

/** A client of the reflection service as the package defines it. */
class ReflectionClient {
  readonly #client: InstanceType<ServiceClientConstructor>;
  readonly #stream: ClientDuplexStream<object, ReflectionAnswer>;
  readonly ended = new Signal<number>();

  constructor(baton: TestServer, version: 'v1' | 'v1alpha', port: Port = 'grpc') {
    let definition: ServiceDefinition | undefined;
    new ReflectionService({}).addToServer({
      addService: (one: ServiceDefinition) => {
        if (Object.values(one)[0]!.path.includes(`.${version}.`)) definition = one;
      },
    });
    const Client = makeGenericClientConstructor(definition!, 'ServerReflection');
    this.#client = new Client(address(baton, port), credentials.createInsecure());
    this.#stream = this.#client['ServerReflectionInfo']!() as ClientDuplexStream<object, ReflectionAnswer>;
    this.#stream.on('status', ({ code }: { code: number }) => this.ended.send(code));
    this.#stream.on('error', () => undefined);
  }

  async ask(request: object): Promise<ReflectionAnswer> {
    const answer = new Signal<ReflectionAnswer>();
    this.#stream.once('data', (one: ReflectionAnswer) => answer.send(one));
    this.#stream.write(request);
    return within(answer.promise, `an answer to ${JSON.stringify(request)}`);
  }

  async files(request: object): Promise<FileDescriptorProto[]> {
    const { fileDescriptorResponse, errorResponse } = await this.ask(request);
    assert.equal(errorResponse ?? undefined, undefined, JSON.stringify([request, errorResponse]));
    return fileDescriptorResponse!.fileDescriptorProto.map((bytes) =>
      fromBinary(FileDescriptorProtoSchema, Uint8Array.from(bytes)),
    );
  }

  /** A symbol's file after everything that it imports, each asked for by name as clients do. */
  async closure(symbol: string): Promise<FileDescriptorProto[]> {
    const found = new Map<string, FileDescriptorProto>();
    const add = async (file: FileDescriptorProto): Promise<void> => {
      for (const name of file.dependency)
        if (!found.has(name)) await add((await this.files({ fileByFilename: name }))[0]!);
      found.set(file.name, file);
    };
    await add((await this.files({ fileContainingSymbol: symbol }))[0]!);
    return [...found.values()];
  }

  /** Asks nothing more, and waits for the end. */
  async finish(): Promise<number> {
    this.#stream.end();
    return within(this.ended.promise, 'the stream of questions to end');
  }

  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }
}

/** Both speak gRPC, and both answer these. */
const PORTS = ['grpc', 'http'] as const;
type Port = (typeof PORTS)[number];

const REFLECTIONS = PORTS.flatMap((port) => [[port, 'v1'] as const, [port, 'v1alpha'] as const]);

function address({ grpcUrl, httpUrl }: TestServer, port: Port): string {
  return (port === 'grpc' ? grpcUrl : httpUrl).replace('http://', '');
}

async function readyz({ httpUrl }: TestServer): Promise<readonly [number, string]> {
  const response = await fetch(`${httpUrl}/readyz`);
  return [response.status, (await response.text()).trim()];
}

/** Takes the database away from everybody, or gives it back. */
async function allowConnections(database: TestDatabase, allow: boolean): Promise<void> {
  const url = new URL(database.url);
  const name = url.pathname.slice(1);
  url.pathname = '/postgres';
  const admin = new pg.Client({ connectionString: url.toString() });
  await admin.connect();
  await admin.query(`alter database ${name} with allow_connections ${allow}`);
  if (!allow)
    await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [name]);
  await admin.end();
}

describeOnPostgres('health and reflection', (open) => {
  const withServer = (body: (baton: TestServer, database: TestDatabase) => Promise<void>) => async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    try {
      await body(baton, database);
    } finally {
      await baton.stop();
      await database.drop();
    }
  };

  for (const port of PORTS) {
    void test(
      `health on the ${port} port: serving by every name, and an unknown name is said to be unknown`,
      withServer(async (baton) => {
        const client = new HealthClient(baton, port);
        for (const service of SERVICES) assert.equal(await client.check(service), 'SERVING', service);
        await assert.rejects(client.check('baton.v1.NoService'), { code: GrpcCode.NOT_FOUND });
        const unknown = client.watch('baton.v1.NoService');
        await waitFor(() => unknown.statuses.length === 1, 'the answer about an unknown service');
        assert.deepEqual(unknown.statuses, ['SERVICE_UNKNOWN']);
        unknown.cancel();
        assert.equal((await unknown.ended).code, GrpcCode.CANCELLED);
        assert.deepEqual(await readyz(baton), [200, 'ready']);
        client.close();
      }),
    );

    void test(
      `health on the ${port} port: not serving while the database is away, and serving when it is back`,
      withServer(async (baton, database) => {
        const client = new HealthClient(baton, port);
        const watch = client.watch('baton.v1.JobService');
        await allowConnections(database, false);
        await waitFor(
          async () => (await client.check()) === 'NOT_SERVING',
          'the server not to serve',
          12_000,
        );
        assert.deepEqual(await readyz(baton), [503, 'the database cannot be reached at the moment']);
        for (const service of SERVICES) assert.equal(await client.check(service), 'NOT_SERVING', service);
        await allowConnections(database, true);
        await waitFor(async () => (await client.check()) === 'SERVING', 'the server to serve again', 12_000);
        assert.deepEqual(await readyz(baton), [200, 'ready']);
        assert.deepEqual(watch.statuses, ['SERVING', 'NOT_SERVING', 'SERVING']);
        client.close();
      }),
    );
  }

  void test('health: a server that stops says so first, and its open watches do not hold it up', async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    const clients = PORTS.map((port) => new HealthClient(baton, port));
    const reflections = PORTS.map((port) => new ReflectionClient(baton, 'v1', port));
    const watches = clients.flatMap((client) => SERVICES.map((service) => client.watch(service)));
    await waitFor(() => watches.every(({ statuses }) => statuses.length === 1), 'the watches to begin');
    for (const reflection of reflections) await reflection.ask({ listServices: '*' });
    // A call that is still in flight: it is answered before the server lets go.
    const waiting = baton.jobs.claimNext({ stage: 'run', wait: { seconds: 40n, nanos: 0 } });
    await waitFor(() => baton.server.service.claims.waiting === 1, 'the claim to wait');
    await within(baton.stop(), 'the server to stop, which waits for no watch', STOP_MS);
    assert.deepEqual((await waiting).claims, []);
    for (const { statuses, ended } of watches) {
      assert.equal((await ended).code, GrpcCode.UNAVAILABLE);
      assert.deepEqual(statuses, ['SERVING', 'NOT_SERVING']);
    }
    for (const reflection of reflections) {
      assert.equal(await reflection.ended.promise, GrpcCode.OK);
      reflection.close();
    }
    for (const client of clients) client.close();
    await database.drop();
  });

  for (const [port, version] of REFLECTIONS) {
    void test(
      `reflection ${version} on the ${port} port: lists the services, and has every file that they need`,
      withServer(async (baton) => {
        const client = new ReflectionClient(baton, version, port);
        const { listServicesResponse } = await client.ask({ listServices: '*' });
        assert.deepEqual(listServicesResponse?.service.map(({ name }) => name).sort(), [
          'baton.v1.JobService',
          'baton.v1.PipelineService',
          'grpc.health.v1.Health',
        ]);
        for (const service of [JobService, PipelineService]) {
          const file = await client.closure(service.typeName);
          const registry = createFileRegistry(create(FileDescriptorSetSchema, { file }));
          assert.deepEqual(
            registry.getService(service.typeName)?.methods.map(({ name, methodKind }) => [name, methodKind]),
            service.methods.map(({ name, methodKind }) => [name, methodKind]),
          );
          for (const { input, output } of service.methods) {
            for (const type of [input, output])
              assert.deepEqual(
                registry.getMessage(type.typeName)?.fields.map((field) => [field.name, field.number]),
                type.fields.map((field) => [field.name, field.number]),
              );
          }
        }
        const names = (await client.closure('baton.v1.JobService.UpdateStatus')).map(({ name }) => name);
        for (const name of [
          'google/protobuf/struct.proto',
          'google/rpc/status.proto',
          'google/protobuf/any.proto',
        ])
          assert.ok(names.includes(name), `${name} is not among ${names.join(', ')}`);
        const [health] = await client.closure('grpc.health.v1.Health');
        // Go refuses a file in which the entry of a map has any other name.
        assert.deepEqual(
          health?.messageType.flatMap(({ nestedType }) => nestedType.map(({ name }) => name)),
          ['StatusesEntry'],
        );
        const details = await client.closure('google.rpc.ErrorInfo');
        assert.ok(details.some(({ name }) => name === 'google/rpc/error_details.proto'));
        const { errorResponse } = await client.ask({ fileContainingSymbol: 'baton.v1.Nothing' });
        assert.equal(errorResponse?.errorCode, GrpcCode.NOT_FOUND);
        assert.equal(await client.finish(), GrpcCode.OK);
        client.close();
      }),
    );
  }
});

void test('health: the database is asked every 5 s, and one that does not answer counts as away', async () => {
  const clock = new ManualClock();
  let pings = 0;
  let answer = Promise.resolve();
  const ping = (): Promise<void> => {
    pings += 1;
    return answer;
  };
  const health = new Health({ ping, clock, log: silent });
  assert.deepEqual(health.ready, { ok: false, detail: 'starting' });
  health.start();
  assert.equal(health.ready.ok, true);
  await clock.pass(0);
  await clock.pass(4999);
  assert.equal(pings, 1);
  const silence = new Signal();
  answer = silence.promise;
  await clock.pass(1);
  assert.equal(pings, 2);
  await clock.pass(3999);
  assert.equal(health.ready.ok, true);
  await clock.pass(1);
  assert.deepEqual(health.ready, { ok: false, detail: 'the database cannot be reached at the moment' });
  await clock.pass(60_000);
  assert.equal(pings, 2, 'a question that has no answer yet is not asked again');
  silence.send();
  await clock.pass(0);
  assert.equal(health.ready.ok, true);
  health.stop();
  await clock.pass(0);
  assert.deepEqual(health.ready, { ok: false, detail: 'stopping' });
  assert.equal(clock.timers, 0, 'no timer is left');
  const asked = pings;
  await clock.pass(60_000);
  assert.equal(pings, asked);
  assert.deepEqual(HEALTH_SERVICES, SERVICES);
});
