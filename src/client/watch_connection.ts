import { Code, ConnectError, createClient, type Client, type Transport } from '@connectrpc/connect';
import {
  JobService,
  type WatchRunsRequest,
  type WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import type { WatchRunsOptions, WatchServer } from './watch_types.js';

const BOOKMARK_DEFAULT_MS = 10_000;
/** So many intervals without a message, and the stream is taken for dead. */
const SILENT_INTERVALS = 3;

interface OpenedClient {
  readonly jobs: Client<typeof JobService>;
  /** Lets go of the connection. */
  close(): void;
}

/** One call of WatchRuns on one server, with a connection of its own where the server is given by its address. */
export class WatchConnection {
  readonly #server: WatchServer;
  readonly #request: WatchRunsRequest;
  readonly #options: WatchRunsOptions;
  readonly #silenceMs: number;
  readonly #abort = new AbortController();
  #client: OpenedClient | undefined;
  #messages: AsyncIterator<WatchRunsResponse> | undefined;

  constructor(server: WatchServer, request: WatchRunsRequest, options: WatchRunsOptions) {
    this.#server = server;
    this.#request = request;
    this.#options = options;
    this.#silenceMs = SILENT_INTERVALS * (options.bookmarkIntervalMs || BOOKMARK_DEFAULT_MS);
  }

  /**
   * The next message; undefined at a good end. The time is only counted while there is nothing to give, not while the
   * reader is busy.
   *
   * @throws the reason of the reader's signal, or an error of the stream, its silence included
   */
  next(): Promise<WatchRunsResponse | undefined> {
    const { signal } = this.#options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) return reject(reasonOf(signal));
      const onAbort = (): void => settle(() => signal && reject(reasonOf(signal)));
      const timer = setTimeout(() => settle(() => reject(this.#silence())), this.#silenceMs);
      const settle = (how: () => void): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        how();
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#pull().then(
        (message) => settle(() => resolve(message)),
        (error: unknown) => settle(() => reject(ConnectError.from(error))),
      );
    });
  }

  #silence(): ConnectError {
    return new ConnectError(`no message for ${this.#silenceMs} ms`, Code.Unavailable);
  }

  async #pull(): Promise<WatchRunsResponse | undefined> {
    this.#messages ??= await this.#open();
    const next = await this.#messages.next();
    return next.done === true ? undefined : next.value;
  }

  async #open(): Promise<AsyncIterator<WatchRunsResponse>> {
    const client = (this.#client = await openClient(this.#server));
    // Closed while the module was loaded: a call would connect for nobody.
    this.#abort.signal.throwIfAborted();
    const { headers } = this.#options;
    const call = { signal: this.#abort.signal, ...(headers && { headers }) };
    return client.jobs.watchRuns(this.#request, call)[Symbol.asyncIterator]();
  }

  /** Leaves the call in whatever state it is, and waits for nothing: the other side may never answer. */
  close(): void {
    this.#abort.abort();
    this.#client?.close();
  }
}

async function openClient(server: WatchServer): Promise<OpenedClient> {
  if (typeof server !== 'string' && !(server instanceof URL))
    return { jobs: isTransport(server) ? createClient(JobService, server) : server, close: () => {} };
  // Only here, so that a browser, which gives a transport, needs nothing of Node.
  const { createGrpcTransport, Http2SessionManager } = await import('@connectrpc/connect-node');
  const baseUrl = String(server).replace(/\/+$/, '');
  const sessionManager = new Http2SessionManager(baseUrl);
  const transport = createGrpcTransport({ baseUrl, sessionManager });
  return { jobs: createClient(JobService, transport), close: () => sessionManager.abort() };
}

function isTransport(server: Transport | Client<typeof JobService>): server is Transport {
  return 'stream' in server && typeof server.stream === 'function';
}

/** What to throw when the reader has ended the watch. */
export function reasonOf(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  return reason instanceof Error ? reason : new Error('the watch was aborted', { cause: reason });
}
