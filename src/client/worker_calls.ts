import type { MessageInitShape } from '@bufbuild/protobuf';
import { Code, ConnectError, createClient, type CallOptions, type Client } from '@connectrpc/connect';
import {
  JobService,
  type ClaimNextRequestSchema,
  type ClaimNextResponse,
  type ExtendLeasesRequestSchema,
  type ExtendLeasesResponse,
  type UpdateStatusRequestSchema,
  type UpdateStatusResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import type { Pipeline } from '../../gen/baton/v1/pipeline_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { Latch } from './worker_clock.js';
import type { WorkerOptions } from './worker_types.js';

interface Connection {
  readonly jobs: Client<typeof JobService>;
  readonly pipelines: Client<typeof PipelineService>;
  readonly close: () => void;
  /** Calls that are under way. */
  calls: number;
  /** No call is begun on it any more; it is closed after the last one. */
  retired: boolean;
}

/**
 * The calls of one worker. Every call ends by its own timeout, whatever the network does. Where the worker was given an
 * address, a connection that left a call without an answer is given up: it may have died without a word.
 */
export class WorkerCalls {
  readonly #options: WorkerOptions;
  readonly #closed = new Latch();
  readonly #open = new Set<Connection>();
  #current: Promise<Connection> | undefined;

  constructor(options: WorkerOptions) {
    this.#options = options;
  }

  claimNext(
    request: MessageInitShape<typeof ClaimNextRequestSchema>,
    timeoutMs: number,
    ended: Latch,
  ): Promise<ClaimNextResponse> {
    return this.#call(timeoutMs, ended, ({ jobs }, options) => jobs.claimNext(request, options));
  }

  updateStatus(
    request: MessageInitShape<typeof UpdateStatusRequestSchema>,
    timeoutMs: number,
  ): Promise<UpdateStatusResponse> {
    return this.#call(timeoutMs, undefined, ({ jobs }, options) => jobs.updateStatus(request, options));
  }

  extendLeases(
    request: MessageInitShape<typeof ExtendLeasesRequestSchema>,
    timeoutMs: number,
  ): Promise<ExtendLeasesResponse> {
    return this.#call(timeoutMs, undefined, ({ jobs }, options) => jobs.extendLeases(request, options));
  }

  async getPipeline(name: string, timeoutMs: number): Promise<Pipeline | undefined> {
    const response = await this.#call(timeoutMs, undefined, ({ pipelines }, options) =>
      pipelines.getPipeline({ name }, options),
    );
    return response.pipeline;
  }

  /** Ends every call, and lets go of the connections. */
  close(): void {
    this.#closed.set();
    for (const connection of this.#open) this.#drop(connection);
  }

  async #call<T>(
    timeoutMs: number,
    ended: Latch | undefined,
    send: (connection: Connection, options: CallOptions) => Promise<T>,
  ): Promise<T> {
    const connection = await this.#connection();
    const { headers } = this.#options;
    connection.calls += 1;
    try {
      const latches = ended === undefined ? [this.#closed] : [this.#closed, ended];
      return await withDeadline(timeoutMs, latches, (own) =>
        send(connection, { signal: own, timeoutMs, ...(headers && { headers }) }),
      );
    } catch (error) {
      if (isSilence(error)) this.#retire(connection);
      throw error;
    } finally {
      connection.calls -= 1;
      if (connection.retired && connection.calls === 0) this.#drop(connection);
    }
  }

  async #connection(): Promise<Connection> {
    this.#current ??= connect(this.#options);
    try {
      const connection = await this.#current;
      this.#open.add(connection);
      return connection;
    } catch (error) {
      this.#current = undefined;
      throw error;
    }
  }

  /** A transport of the user's is the only one there is. */
  #retire(connection: Connection): void {
    if (this.#options.baseUrl === undefined || connection.retired) return;
    connection.retired = true;
    this.#current = undefined;
  }

  #drop(connection: Connection): void {
    this.#open.delete(connection);
    connection.close();
  }
}

async function connect(options: WorkerOptions): Promise<Connection> {
  const clientsOf = (transport: Parameters<typeof createClient>[1], close: () => void): Connection => ({
    jobs: createClient(JobService, transport),
    pipelines: createClient(PipelineService, transport),
    close,
    calls: 0,
    retired: false,
  });
  if (options.transport !== undefined) return clientsOf(options.transport, () => {});
  // Only here, so that a browser, which gives a transport, needs nothing of Node.
  const { createGrpcTransport, Http2SessionManager } = await import('@connectrpc/connect-node');
  const baseUrl = String(options.baseUrl).replace(/\/+$/, '');
  const sessionManager = new Http2SessionManager(baseUrl);
  return clientsOf(createGrpcTransport({ baseUrl, sessionManager }), () => sessionManager.abort());
}

/** Nobody has answered, not even with an error. */
function isSilence(error: unknown): boolean {
  const failure = ConnectError.from(error);
  return failure.code === Code.DeadlineExceeded && failure.findDetails(ErrorInfoSchema).length === 0;
}

/** Settles at the latest when the time is over or a latch is set, also where the library would wait for its peer. */
function withDeadline<T>(
  timeoutMs: number,
  latches: readonly Latch[],
  send: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const own = new AbortController();
    const giveUp = (error: ConnectError): void => {
      settle();
      reject(error);
      own.abort(error);
    };
    const onSet = (): void => giveUp(new ConnectError('the call was ended', Code.Canceled));
    const timer = setTimeout(
      () => giveUp(new ConnectError(`no answer for ${timeoutMs} ms`, Code.DeadlineExceeded)),
      timeoutMs,
    );
    const settle = (): void => {
      clearTimeout(timer);
      for (const forget of listening) forget();
    };
    const listening = latches.map((latch) => latch.onSet(onSet));
    if (latches.some(({ isSet }) => isSet)) return onSet();
    send(own.signal).then(
      (value) => {
        settle();
        resolve(value);
      },
      (error: unknown) => {
        settle();
        reject(ConnectError.from(error));
      },
    );
  });
}
