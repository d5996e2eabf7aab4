import { Duplex, PassThrough } from 'node:stream';
import {
  create,
  createFileRegistry,
  fromBinary,
  toBinary,
  type DescMethod,
  type DescMethodBiDiStreaming,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  type Message,
} from '@bufbuild/protobuf';
import { FileDescriptorSetSchema } from '@bufbuild/protobuf/wkt';
import { ConnectError, type ConnectRouter } from '@connectrpc/connect';
import type {
  handleUnaryCall,
  MethodDefinition,
  Server,
  ServiceDefinition,
  ServiceError,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { readDescriptor } from './descriptors.js';

/** What a service that is written for grpc-js registers with. */
export type GrpcRegistry = Pick<Server, 'addService'>;

type Method = MethodDefinition<object, object>;
type StreamHandler = (call: Duplex & { readonly request: object | undefined }) => void;

/**
 * Lets services that are written for grpc-js (health, reflection) answer on the HTTP port as well: the same objects
 * serve both listeners. They are asked now and then, so each message may be encoded once more on its way.
 */
export function grpcRegistry(router: ConnectRouter): GrpcRegistry {
  return {
    addService: (definition: ServiceDefinition, implementation: UntypedServiceImplementation) => {
      for (const [name, method] of Object.entries(definition) as [string, Method][]) {
        // As grpc-js does: by the name in the definition or by the one that JavaScript would give it.
        const handler = implementation[name] ?? implementation[method.originalName ?? ''];
        if (handler !== undefined) addMethod(router, describe(method), method, handler);
      }
    },
  };
}

/** Definitions that proto-loader made carry their descriptors. */
function describe(method: Method): DescMethod {
  const [, typeName = '', name = ''] = method.path.split('/');
  const { requestType, responseType } = method as unknown as Record<
    string,
    { fileDescriptorProtos: Uint8Array[] }
  >;
  const files = [...(requestType?.fileDescriptorProtos ?? []), ...(responseType?.fileDescriptorProtos ?? [])];
  const byName = new Map(files.map(readDescriptor).map((file) => [file.name, file]));
  const set = create(FileDescriptorSetSchema, { file: [...byName.values()] });
  const service: DescService | undefined = createFileRegistry(set).getService(typeName);
  const found = service?.methods.find((one) => one.name === name);
  if (found === undefined) throw new Error(`${method.path} has no descriptor`);
  return found;
}

function addMethod(
  router: ConnectRouter,
  desc: DescMethod,
  method: Method,
  handler: UntypedServiceImplementation[string],
): void {
  const read = (message: Message): object =>
    method.requestDeserialize(Buffer.from(toBinary(desc.input, message)));
  const write = (message: object): Message => fromBinary(desc.output, method.responseSerialize(message));
  const handleUnary = handler as handleUnaryCall<object, object>;
  const handleStream = handler as unknown as StreamHandler;
  switch (desc.methodKind) {
    case 'unary':
      router.rpc(desc as DescMethodUnary, (request) => callUnary(handleUnary, read(request)).then(write));
      break;
    case 'server_streaming':
      router.rpc(desc as DescMethodServerStreaming, (request, { signal }) =>
        mapEach(callStream(handleStream, read(request), none(), signal), write),
      );
      break;
    case 'bidi_streaming':
      router.rpc(desc as DescMethodBiDiStreaming, (requests, { signal }) =>
        mapEach(callStream(handleStream, undefined, mapEach(requests, read), signal), write),
      );
      break;
    case 'client_streaming':
      throw new Error(`${method.path}: ${desc.methodKind} is not supported`);
  }
}

function callUnary(handler: handleUnaryCall<object, object>, request: object): Promise<object> {
  return new Promise((resolve, reject) => {
    // What these handlers use of a call.
    const call = { request } as Parameters<typeof handler>[0];
    handler(call, (error, answer) => {
      if (error === null || error === undefined) resolve(answer ?? {});
      else reject(toError(error));
    });
  });
}

/** Runs a stream as grpc-js does: the handler reads requests from the call and writes to it. Gives what it writes. */
async function* callStream(
  handler: StreamHandler,
  request: object | undefined,
  requests: AsyncIterable<object>,
  signal: AbortSignal,
): AsyncIterable<object> {
  const answers = new PassThrough({ objectMode: true, highWaterMark: 1 });
  const call = Object.assign(duplexOf(requests[Symbol.asyncIterator](), answers), { request });
  let failure: Partial<ServiceError> | undefined;
  // A handler ends a stream with a status by this event, behind what it has written.
  call.on('error', (error) => {
    failure = error;
    if (call.destroyed) answers.end();
    else call.end();
  });
  if (signal.aborted) return;
  // connect leaves a generator standing whose reader has gone.
  signal.addEventListener('abort', () => {
    call.emit('cancelled');
    call.destroy();
    answers.end();
  });
  handler(call);
  yield* answers as AsyncIterable<object>;
  if (failure !== undefined && !signal.aborted) throw toError(failure);
}

/** `Duplex.from` would end in an error whenever both sides have ended well. */
function duplexOf(requests: AsyncIterator<object>, answers: PassThrough): Duplex {
  return new Duplex({
    objectMode: true,
    highWaterMark: 1,
    read() {
      requests.next().then(
        ({ done, value }) => this.push(done === true ? null : value),
        (error: unknown) => this.destroy(error instanceof Error ? error : new Error(String(error))),
      );
    },
    write(answer, _encoding, done) {
      if (answers.write(answer)) done();
      else answers.once('drain', done);
    },
    final(done) {
      answers.end();
      done();
    },
  });
}

function toError(error: Partial<ServiceError>): Error {
  return typeof error.code === 'number'
    ? new ConnectError(error.details ?? '', error.code as number)
    : (error as Error);
}

async function* mapEach<A, B>(source: AsyncIterable<A>, map: (one: A) => B): AsyncIterable<B> {
  for await (const one of source) yield map(one);
}

async function* none(): AsyncIterable<never> {}
