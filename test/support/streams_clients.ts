import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect, constants, type ClientHttp2Session } from 'node:http2';
import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';
import {
  JobService,
  WatchKind,
  WatchRunsRequestSchema,
  type WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import { fromGrpc } from './rpc_errors.js';
import { GrpcJsClient } from './rpc_grpc_client.js';
import { codeName, Frames, frame, grpcEnd, OK, RESET, type StreamEnd } from './streams_frames.js';
import { waitFor } from './wait.js';

export type WatchRequest = MessageInitShape<typeof WatchRunsRequestSchema>;

/** Where a server listens. */
export interface Ports {
  readonly grpcPort: number;
  readonly httpPort: number;
}

/** One stream as its client sees it, whose reading can be stopped and taken up again. */
export class StreamClient {
  readonly revisions: bigint[] = [];
  messages = 0;
  lastToken = '';
  lastKind: WatchKind = WatchKind.UNSPECIFIED;
  /** Undefined while it is open. */
  end: StreamEnd | undefined;
  /** Set by the connection. */
  pause: () => void = () => undefined;
  resume: () => void = () => undefined;
  cancel: () => void = () => undefined;

  take(message: WatchRunsResponse): void {
    this.messages += 1;
    this.lastKind = message.kind;
    if (message.resumeToken !== '') this.lastToken = message.resumeToken;
    for (const event of message.events) this.revisions.push(event.revision);
  }

  finish(end: StreamEnd): void {
    this.end ??= end;
  }

  async opened(): Promise<this> {
    await waitFor(() => this.messages > 0 || this.end !== undefined, 'the stream to open');
    if (this.messages === 0) throw new Error(`the stream ended at once: ${JSON.stringify(this.end)}`);
    return this;
  }

  async hasEvents(count: number): Promise<void> {
    await waitFor(
      () => this.revisions.length >= count || this.end !== undefined,
      `${count} events`,
      20_000,
    ).catch((error: unknown) => {
      throw new Error(`only ${this.revisions.length} events came`, { cause: error });
    });
    if (this.revisions.length < count)
      throw new Error(`ended after ${this.revisions.length} events: ${JSON.stringify(this.end)}`);
  }

  async hasEnded(): Promise<StreamEnd> {
    await waitFor(() => this.end !== undefined, 'the stream to end');
    return this.end ?? RESET;
  }
}

/** A connection that streams are opened on; with HTTP/1.1 each stream has one of its own. */
export interface StreamConnection {
  open(request: WatchRequest, paused?: boolean): StreamClient;
  close(): void;
}

const PATH = '/baton.v1.JobService/WatchRuns';

const body = (request: WatchRequest): Buffer =>
  frame(toBinary(WatchRunsRequestSchema, create(WatchRunsRequestSchema, request)));

function overH2(port: number, headers: Record<string, string>): StreamConnection {
  const session: ClientHttp2Session = connect(`http://127.0.0.1:${port}`);
  session.on('error', () => undefined);
  return {
    open(request, paused = false) {
      const client = new StreamClient();
      const frames = new Frames();
      const stream = session.request({ ':method': 'POST', ':path': PATH, ...headers });
      if (paused) stream.pause();
      stream.on('data', (chunk: Buffer) => frames.take(chunk).forEach((message) => client.take(message)));
      stream.on('trailers', (trailers) => {
        const details = trailers['grpc-status-details-bin'];
        if (trailers['grpc-status'] !== undefined)
          client.finish(grpcEnd(Number(trailers['grpc-status']), details?.toString()));
      });
      stream.on('error', () => undefined);
      stream.on('close', () => client.finish(frames.end ?? RESET));
      client.pause = () => stream.pause();
      client.resume = () => stream.resume();
      client.cancel = () => stream.close(constants.NGHTTP2_CANCEL);
      stream.end(body(request));
      return client;
    },
    close: () => session.destroy(),
  };
}

function overH1(port: number): StreamConnection {
  const calls = new Set<() => void>();
  const headers = { 'content-type': 'application/connect+proto' };
  return {
    open(request, paused = false) {
      const client = new StreamClient();
      const frames = new Frames();
      const call = httpRequest({ port, path: PATH, method: 'POST', headers, agent: false });
      let response: IncomingMessage | undefined;
      let isPaused = paused;
      const cancel = (): void => void call.destroy();
      calls.add(cancel);
      call.on('response', (answer) => {
        response = answer;
        if (isPaused) answer.pause();
        answer.on('data', (chunk: Buffer) => frames.take(chunk).forEach((message) => client.take(message)));
        answer.on('error', () => undefined);
        answer.on('end', () => client.finish(frames.end ?? RESET));
      });
      call.on('error', () => undefined);
      call.on('close', () => {
        calls.delete(cancel);
        client.finish(frames.end ?? RESET);
      });
      client.pause = () => {
        isPaused = true;
        response?.pause();
      };
      client.resume = () => {
        isPaused = false;
        response?.resume();
      };
      client.cancel = cancel;
      call.end(body(request));
      return client;
    },
    close: () => calls.forEach((cancel) => cancel()),
  };
}

function overGrpcJs(port: number): StreamConnection {
  const grpc = new GrpcJsClient(`127.0.0.1:${port}`);
  return {
    open(request, paused = false) {
      const client = new StreamClient();
      const call = grpc.stream(JobService.method.watchRuns, request);
      if (paused) call.pause();
      call.on('data', (message: WatchRunsResponse) => client.take(message));
      call.on('error', (error) => {
        const { code, reason = '' } = fromGrpc(error);
        client.finish({ code: codeName(code), reason });
      });
      call.on('end', () => client.finish(OK));
      client.pause = () => void call.pause();
      client.resume = () => void call.resume();
      client.cancel = () => call.cancel();
      return client;
    },
    close: () => grpc.close(),
  };
}

/** Every way to a stream. The raw clients read nothing ahead while they are paused but HTTP/2's window of 64 KiB. */
export const CONNECT_OVER = {
  'gRPC by grpc-js': ({ grpcPort }: Ports) => overGrpcJs(grpcPort),
  'gRPC over raw h2': ({ grpcPort }: Ports) =>
    overH2(grpcPort, { 'content-type': 'application/grpc', te: 'trailers' }),
  'Connect over h2': ({ httpPort }: Ports) =>
    overH2(httpPort, { 'content-type': 'application/connect+proto' }),
  'Connect over HTTP/1.1': ({ httpPort }: Ports) => overH1(httpPort),
} as const;

export type Way = keyof typeof CONNECT_OVER;
