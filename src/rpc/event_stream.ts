import { codeToHttpStatus } from '@connectrpc/connect/protocol-connect';
import { canceledError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { bindingsOf, type StreamBinding } from './bindings.js';
import { ServerCall, type Observer, type Protocol } from './call.js';
import {
  encodeEnd,
  encodeError,
  encodeLines,
  END_ID,
  EVENT_STREAM,
  NDJSON,
  type Format,
  type StreamPosition,
} from './event_stream_format.js';
import { inQueryNames, requestFromQuery } from './event_stream_query.js';
import { ResponseSink } from './event_stream_sink.js';
import type { Handlers } from './handlers.js';
import {
  addVary,
  pathOf,
  queryOf,
  setStreamHeaders,
  type NodeRequest,
  type NodeResponse,
} from './node_http.js';
import { refuse, sendError } from './refusals.js';
import { OpenStream } from './watch_loop.js';

/**
 * WatchRuns for whoever has no gRPC: `GET /v1/events?pipeline=ci&label=team=a` streams a line of JSON for each change,
 * or server-sent events for who accepts `text/event-stream`. Parameters mirror WatchRunsRequest. The stream is
 * resumed by `after` or `Last-Event-ID`, with any token that any transport has given.
 *
 *     headers ─▶ first message ──▶ 200, lines … ──▶ END or ERROR line
 *                    └─ error ──▶ its HTTP status and Connect's JSON for it
 */
export const EVENTS_PATH = '/v1/events';

/** Serves a request for the stream of events; false when it is for something else. */
export type EventStreamHandler = (request: NodeRequest, response: NodeResponse) => boolean;

/** Calls are counted with Connect's: the same port, JSON and form of errors. */
const PROTOCOL: Protocol = 'connect';

export function createEventStreamHandler(handlers: Handlers, observer: Observer): EventStreamHandler {
  const binding = bindingsOf(handlers).find(
    (one) => one.kind === 'server_streaming' && one.method.localName === 'watchRuns',
  ) as StreamBinding;
  return (request, response) => {
    if (pathOf(request) !== EVENTS_PATH) return false;
    // A request over HTTP/2 that nobody reads would keep its stream open; there is nothing in the body of a GET.
    request.resume();
    if (request.method !== 'GET') refuse(request, response, 405, ['GET']);
    else
      new EventStream(binding, request, response, observer).serve().catch((error: unknown) => {
        observer.log.error({ err: error, path: EVENTS_PATH }, 'event stream failed');
        response.destroy();
      });
    return true;
  };
}

/** One response on its way. */
class EventStream {
  readonly #call: ServerCall;
  readonly #sink: ResponseSink;
  readonly #format: Format;
  readonly #lastEventId: string;
  /** After the last message that was written and has a token. Undefined before the first message. */
  #position: StreamPosition | undefined;

  constructor(
    private readonly binding: StreamBinding,
    private readonly request: NodeRequest,
    private readonly response: NodeResponse,
    observer: Observer,
  ) {
    this.#call = new ServerCall(binding.name, PROTOCOL, observer);
    this.#sink = new ResponseSink(response, () => this.#call.cancel(canceledError));
    // Given up by the service while the writer is blocked: what is waiting to be sent will never be taken.
    this.#call.signal.addEventListener('abort', () => this.#sink.destroy());
    this.#format = acceptsEventStream(request) ? EVENT_STREAM : NDJSON;
    this.#lastEventId = headerOf(request, 'last-event-id');
  }

  async serve(): Promise<void> {
    setStreamHeaders(this.response);
    addVary(this.response, 'accept, last-event-id');
    let stream: OpenStream | undefined;
    try {
      const request = requestFromQuery(queryOf(this.request), this.#lastEventId);
      if (request.untilTerminal && this.#lastEventId === END_ID) return this.#sendNothing();
      stream = new OpenStream(() => this.binding.open(request, this.#call), this.#call);
      await this.#sendAll(stream);
    } catch (error) {
      this.#sendError(error);
    } finally {
      stream?.close();
    }
  }

  async #sendAll(stream: OpenStream): Promise<void> {
    for (let sent = await this.#sendNext(stream); sent !== undefined; sent = await this.#sendNext(stream)) {
      const { isSent, revision, resumeToken } = sent;
      if (!isSent) return stream.throwIfAborted();
      if (resumeToken !== '' || this.#position === undefined) this.#position = { revision, resumeToken };
    }
    this.#call.finish(0);
    this.#sink.end(encodeEnd(this.#format, this.#position ?? NOWHERE), LIMITS.stallMs);
  }

  /** Its message is not kept while the bytes wait for room. */
  async #sendNext(stream: OpenStream): Promise<(StreamPosition & { readonly isSent: boolean }) | undefined> {
    const message = await stream.next();
    if (message === undefined) return undefined;
    const { revision, resumeToken } = message;
    const writing = this.#write(encodeLines(this.#format, message));
    return writing.then((isSent) => ({ isSent, revision, resumeToken }));
  }

  async #write(bytes: Buffer): Promise<boolean> {
    if (!this.response.headersSent && !(await this.#begin())) return false;
    return this.#sink.write(bytes);
  }

  #begin(): Promise<boolean> {
    this.response.writeHead(200, {
      'content-type': this.#format.contentType,
      'x-content-type-options': 'nosniff',
    });
    return this.#sink.write(this.#format.head());
  }

  /** 204 is how a browser is told not to reconnect: the stream has ended well and it asks what follows the end. */
  #sendNothing(): void {
    this.#call.finish(0);
    this.response.writeHead(204);
    this.response.end();
  }

  #sendError(error: unknown): void {
    const status = this.#call.fail(inQueryNames(error, this.#lastEventId));
    if (this.#call.signal.aborted) return this.#sink.destroy();
    if (!this.response.headersSent)
      return sendError(this.request, this.response, codeToHttpStatus(status.code), status);
    this.#sink.end(encodeError(this.#format, status, this.#position ?? NOWHERE), LIMITS.stallMs);
  }
}

const NOWHERE: StreamPosition = { revision: 0n, resumeToken: '' };

function acceptsEventStream(request: NodeRequest): boolean {
  return headerOf(request, 'accept')
    .split(',')
    .some((range) => range.split(';', 1)[0]?.trim().toLowerCase() === 'text/event-stream');
}

/** '' when it is absent; of several, Node has made one already. */
function headerOf(request: NodeRequest, name: string): string {
  const value = request.headers[name];
  return typeof value === 'string' ? value : (value?.join(', ') ?? '');
}
