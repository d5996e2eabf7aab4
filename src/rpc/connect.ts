import { constants } from 'node:http2';
import { toJson, type DescMessage, type Message } from '@bufbuild/protobuf';
import {
  Code,
  ConnectError,
  createConnectRouter,
  type ConnectRouter,
  type ConnectRouterOptions,
  type HandlerContext,
  createContextKey,
  createContextValues,
} from '@connectrpc/connect';
import {
  compressionBrotli,
  compressionGzip,
  universalRequestFromNodeRequest,
  universalResponseToNodeResponse,
} from '@connectrpc/connect-node';
import type { UniversalHandler, UniversalServerResponse } from '@connectrpc/connect/protocol';
import { canceledError, type BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { WatchMessage, WatchStream } from '../service/api.js';
import { bindingsOf, type Binding } from './bindings.js';
import { ServerCall, type Observer, type Protocol } from './call.js';
import { checkGetQuery } from './connect_get.js';
import { completeErrors, toConnectError } from './connect_errors.js';
import { takeContents, type Contents } from './connect_body.js';
import { encodedMessage, iterateStream } from './connect_stream.js';
import { FRAME_PREFIX_BYTES } from './convert/watch.js';
import { encode } from './encode.js';
import { DETAIL_REGISTRY, fitTrailers, statusOf, toStatus } from './errors.js';
import { deadlineError, frameworkError } from './framework_error.js';
import { grpcRegistry, type GrpcRegistry } from './grpc_services.js';
import type { Handlers } from './handlers.js';
import type { Intake, Payload } from './intake.js';
import { RPC_LIMITS } from './limits.js';
import { pathOf, queryOf, setStreamHeaders, type NodeRequest, type NodeResponse } from './node_http.js';
import { refuse, sendError } from './refusals.js';

/** Serves a request that is for an RPC; false when it is for something else. */
export type ConnectHandler = (request: NodeRequest, response: NodeResponse) => boolean;

/** Serves all RPCs over Connect (JSON and binary), gRPC-Web and gRPC. */
export function createConnectHandler(
  handlers: Handlers,
  observer: Observer,
  intake: Intake,
  register?: (registry: GrpcRegistry) => void,
): ConnectHandler {
  const router = createConnectRouter(ROUTER_OPTIONS);
  for (const binding of bindingsOf(handlers)) addRoute(router, binding, observer, intake);
  // Health and reflection are asked short questions.
  const others = createConnectRouter({ ...ROUTER_OPTIONS, readMaxBytes: RPC_LIMITS.lightRequestBytes });
  register?.(grpcRegistry(others));
  const all = [...router.handlers, ...others.handlers];
  const routes = new Map(all.map((handler) => [handler.requestPath, handler]));
  return (request, response) => {
    const route = routes.get(pathOf(request));
    if (route === undefined) return false;
    const takes = router.handlers.includes(route) ? intake : undefined;
    serve(route, request, response, observer, takes).catch((error: unknown) => {
      // The caller has gone while it was being answered; the call itself has been reported.
      observer.log.debug({ err: error, path: route.requestPath }, 'response not delivered');
      response.destroy();
    });
    return true;
  };
}

const ROUTER_OPTIONS: ConnectRouterOptions = {
  readMaxBytes: LIMITS.messageBytes,
  acceptCompression: [compressionGzip, compressionBrotli],
  jsonOptions: {
    // Fields with their default value are written: a shell script reads `.claims[]` and `.attempt` of every answer
    // without asking whether they are there, and `{"claims":[]}` says more than `{}`.
    alwaysEmitImplicit: true,
    registry: DETAIL_REGISTRY,
  },
};

async function serve(
  route: UniversalHandler,
  request: NodeRequest,
  response: NodeResponse,
  observer: Observer,
  intake: Intake | undefined,
): Promise<void> {
  // Node takes a stream's error without a listener for a crash; all that follows from one is done on `close`.
  response.on('error', () => {});
  // An answer may come before its request has been read, when that is too large. Over HTTP/1.1 Node reads the rest
  // away; over HTTP/2 the stream would stay open with a client that cannot finish sending.
  response.once('finish', () => request.resume());
  if (route.method.methodKind === 'unary') response.setHeader('cache-control', 'no-store');
  else setStreamHeaders(response);
  // A request by HTTP/1.0 may lack what connect makes its URL of.
  if (request.httpVersionMajor === 1) request.headers.host ??= 'localhost';
  const badQuery = isGet(request, route) ? checkGetQuery(queryOf(request)) : undefined;
  if (badQuery !== undefined) return sendError(request, response, 400, statusOf(badQuery));
  const values = createContextValues().set(RESPONSE, response);
  const whole = universalRequestFromNodeRequest(request, response, undefined, values);
  const [universal, contents] = intake ? takeContents(whole, request, response, intake) : [whole, undefined];
  values.set(CONTENTS, contents);
  clampTimeout(universal.header);
  const answer = await completeErrors(await route(universal), (code, text) => {
    // What connect makes of a request that breaks off is an internal error, and nobody is left to hear of it.
    const error = whole.signal.aborted ? undefined : frameworkError(code, text);
    return error && toStatus(error, observer.log);
  });
  if (isRefusal(answer)) {
    // With the wrong method the content type says nothing, and connect looks at it first.
    const allowed = methodsOf(route);
    const status = allowed.includes(request.method ?? '') ? answer.status : 405;
    return refuse(request, response, status, allowed);
  }
  await universalResponseToNodeResponse(answer, response);
}

function isGet({ method }: NodeRequest, route: UniversalHandler): boolean {
  return method === 'GET' && methodsOf(route).includes('GET');
}

/** connect names GET for streams without side effects as well, and takes none. */
function methodsOf({ method, allowedMethods }: UniversalHandler): readonly string[] {
  return method.methodKind === 'unary' ? allowedMethods : ['POST'];
}

/** Wrong method or content type: connect answers with a bare HTTP status. */
function isRefusal(answer: UniversalServerResponse): boolean {
  return answer.status >= 400 && answer.body === undefined;
}

/** A timeout beyond what a Node timer can do would fire at once; it is as good as none. */
function clampTimeout(header: Headers): void {
  if (Number(header.get('connect-timeout-ms')) > RPC_LIMITS.timerMs) header.delete('connect-timeout-ms');
  const [, value, unit] = /^(\d{1,8})([HMSmun])$/.exec(header.get('grpc-timeout') ?? '') ?? [];
  const unitMs = { H: 3_600_000, M: 60_000, S: 1000, m: 1, u: 1e-3, n: 1e-6 }[unit ?? ''] ?? 0;
  if (Number(value) * unitMs > RPC_LIMITS.timerMs) header.delete('grpc-timeout');
}

function addRoute(router: ConnectRouter, binding: Binding, observer: Observer, intake: Intake): void {
  const { input, output } = binding.method;
  // Connect has been given nothing but the form of a request: what it holds is decoded here.
  if (binding.kind === 'server_streaming') {
    router.rpc(binding.method, (_, context) => {
      const call = openCall(binding, context, observer);
      const { payload, toThrow } = contentsOf(context);
      const open = async (): Promise<WatchStream> => {
        if (payload === undefined) throw toThrow;
        return intake.serve(input, payload, call.signal, (request) => binding.open(request, call));
      };
      const toProto = (message: WatchMessage): Message =>
        payload?.format === 'json'
          ? binding.toProto(message)
          : encodedMessage(output, binding.frame(message).subarray(FRAME_PREFIX_BYTES));
      return iterateStream(open, call, toProto, (error) => failure(call, error));
    });
    return;
  }
  router.rpc(binding.method, async (_, context) => {
    const call = openCall(binding, context, observer);
    const { payload, toThrow } = contentsOf(context);
    try {
      const proto = await call.run(async () => {
        if (payload === undefined) throw toThrow;
        const message = await intake.serve(input, payload, call.signal, (request) =>
          binding.invoke(request, call),
        );
        if (payload.format !== 'json') return encodedMessage(output, encode(output, message));
        tryText(call, output, message);
        return message;
      });
      call.finish(0);
      if (call.hasUndelivered) watchDelivery(context.values.get(RESPONSE), call);
      return proto;
    } catch (error) {
      throw failure(call, error);
    }
  });
}

/**
 * Makes the text of an answer for nothing. Connect makes it itself, and tells nobody but the caller when it cannot: whoever has
 * to hear of an answer that did not get out would take it for sent.
 */
function tryText(call: ServerCall, schema: DescMessage, message: Message): void {
  if (!call.hasUndelivered) return;
  toJson(schema, message, ROUTER_OPTIONS.jsonOptions);
}

/** What the request of a call holds; connect asks for a call only when it has read the request. */
const CONTENTS = createContextKey<Contents | undefined>(undefined);

function contentsOf({ values }: HandlerContext): { payload: Payload | undefined; toThrow: Error } {
  const contents = values.get(CONTENTS);
  return { payload: contents?.payload, toThrow: contents?.error ?? new Error('the request was not read') };
}

/** Where the answer of a call goes, for those who have to know whether it got there. */
const RESPONSE = createContextKey<NodeResponse | undefined>(undefined);

function watchDelivery(response: NodeResponse | undefined, call: ServerCall): void {
  if (response === undefined) return;
  const check = (): void => {
    // Over HTTP/2 a response has finished when it is queued, however long it stays there.
    const isSent =
      'stream' in response
        ? response.stream.rstCode === constants.NGHTTP2_NO_ERROR
        : response.writableFinished;
    if (!isSent) call.undelivered();
  };
  if (response.destroyed) check();
  else response.once('close', check);
}

function openCall(binding: Binding, context: HandlerContext, observer: Observer): ServerCall {
  const call = new ServerCall(binding.name, context.protocolName as Protocol, observer);
  const { signal } = context;
  const cancel = (): void => call.cancel(() => goneReason(signal.reason));
  if (signal.aborted) cancel();
  else signal.addEventListener('abort', cancel, { once: true });
  return call;
}

function goneReason(reason: unknown): BatonError {
  const isDeadline = reason instanceof ConnectError && reason.code === Code.DeadlineExceeded;
  return isDeadline ? deadlineError() : canceledError();
}

function failure(call: ServerCall, error: unknown): ConnectError {
  const status = call.fail(error);
  return toConnectError(call.protocol === 'grpc' ? fitTrailers(status) : status);
}
