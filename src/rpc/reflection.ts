import { toBinary, type DescFile } from '@bufbuild/protobuf';
import { FileDescriptorProtoSchema } from '@bufbuild/protobuf/wkt';
import type {
  handleBidiStreamingCall,
  ServerDuplexStream,
  UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { service as healthService } from 'grpc-health-check';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { file_google_rpc_error_details } from '../../gen/google/rpc/error_details_pb.js';
import { readDescriptor } from './descriptors.js';
import type { GrpcRegistry } from './grpc_services.js';

type Package = ConstructorParameters<typeof ReflectionService>[0];
type Handler = handleBidiStreamingCall<unknown, unknown>;

/**
 * Server reflection, v1 and v1alpha, so that grpcurl and its like need no `.proto`. The descriptors are those that the
 * generated code carries, with everything they import: nothing is read from a file.
 */
export class Reflection {
  readonly #streams = new Set<ServerDuplexStream<unknown, unknown>>();

  register(registry: GrpcRegistry): void {
    new ReflectionService(describedPackage()).addToServer({
      addService: (definition, implementation: UntypedServiceImplementation) =>
        registry.addService(
          definition,
          Object.fromEntries(
            Object.entries(implementation).map(([name, handler]) => [
              name,
              this.#tracked(handler as Handler),
            ]),
          ),
        ),
    });
  }

  /** Ends what is open: a client may keep its stream for as long as it likes, and a server waits for its streams. */
  stop(): void {
    for (const stream of this.#streams) stream.end();
    this.#streams.clear();
  }

  #tracked(handler: Handler): Handler {
    return (stream) => {
      this.#streams.add(stream);
      const forget = (): boolean => this.#streams.delete(stream);
      stream.once('cancelled', forget).once('end', forget);
      handler(stream);
      // The package answers whatever it reads; a client that does not read its answers is not read either.
      stream.on('data', () => {
        if (stream.writableNeedDrain) stream.pause().once('drain', () => stream.resume());
      });
    };
  }
}

/** The files as the package takes them; it looks at the bytes and at nothing else. */
function describedPackage(): Package {
  // Nothing imports the details of errors, but whoever prints an error asks for them by name.
  const files = [...withImports([JobService.file, PipelineService.file, file_google_rpc_error_details])];
  const baton = files.map(({ proto }) => Buffer.from(toBinary(FileDescriptorProtoSchema, proto)));
  const health = Object.values(healthService)
    .flatMap(({ requestType, responseType }) => [
      ...requestType.fileDescriptorProtos,
      ...responseType.fileDescriptorProtos,
    ])
    .map((bytes) => Buffer.from(toBinary(FileDescriptorProtoSchema, readDescriptor(bytes))));
  const format = 'Protocol Buffer 3 DescriptorProto';
  return { files: { format, type: {}, fileDescriptorProtos: [...baton, ...health] } };
}

function withImports(files: readonly DescFile[], found = new Set<DescFile>()): Set<DescFile> {
  for (const file of files) {
    if (found.has(file)) continue;
    found.add(file);
    withImports(file.dependencies, found);
  }
  return found;
}
