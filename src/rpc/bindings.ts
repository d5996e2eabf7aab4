import {
  create,
  type DescMessage,
  type DescMethodServerStreaming,
  type DescMethodUnary,
  type DescService,
  type Message,
} from '@bufbuild/protobuf';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import type { CallContext, WatchMessage, WatchStream } from '../service/api.js';
import { frameWatchMessage, watchMessageToProto } from './convert/watch.js';
import type { Handlers, StreamHandler, UnaryHandler } from './handlers.js';

/** A unary method and its handler, without the types of its messages: what a generic adapter works with. */
export interface UnaryBinding {
  readonly kind: 'unary';
  /** `baton.v1.JobService/GetRun`. */
  readonly name: string;
  readonly method: DescMethodUnary;
  invoke(request: Message, call: CallContext): Promise<Message>;
}

export interface StreamBinding {
  readonly kind: 'server_streaming';
  readonly name: string;
  readonly method: DescMethodServerStreaming;
  open(request: Message, call: CallContext): Promise<WatchStream>;
  /** The bytes of one message behind gRPC's prefix, made once for all streams that are given the same object. */
  readonly frame: (message: WatchMessage) => Buffer;
  readonly toProto: (message: WatchMessage) => Message;
}

export type Binding = UnaryBinding | StreamBinding;

/** All methods of all services with their handlers, for an adapter to register. */
export function bindingsOf(handlers: Handlers): Binding[] {
  return [...bindService(JobService, handlers.job), ...bindService(PipelineService, handlers.pipeline)];
}

/** The types of the messages end here: `ServiceHandlers` has checked that each handler fits its method. */
function bindService(service: DescService, handlers: object): Binding[] {
  const byName = handlers as Record<string, unknown>;
  return service.methods.map((method) => {
    const handler = byName[method.localName];
    if (method.methodKind === 'unary') {
      return bindUnary(method as DescMethodUnary, handler as UnaryHandler<DescMessage, DescMessage>);
    }
    if (method.methodKind === 'server_streaming')
      return bindStream(method as DescMethodServerStreaming, handler as StreamHandler<DescMessage>);
    throw new Error(`${nameOf(method)}: ${method.methodKind} is not supported`);
  });
}

function bindUnary(method: DescMethodUnary, handler: UnaryHandler<DescMessage, DescMessage>): UnaryBinding {
  return {
    kind: 'unary',
    name: nameOf(method),
    method,
    invoke: async (request, call) => create(method.output, await handler(request, call)),
  };
}

function bindStream(method: DescMethodServerStreaming, handler: StreamHandler<DescMessage>): StreamBinding {
  return {
    kind: 'server_streaming',
    name: nameOf(method),
    method,
    open: handler,
    frame: frameWatchMessage,
    toProto: watchMessageToProto,
  };
}

function nameOf(method: { readonly parent: DescService; readonly name: string }): string {
  return `${method.parent.typeName}/${method.name}`;
}
