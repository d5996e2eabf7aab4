import { LIMITS } from '../../src/base/limits.js';
import { startGrpcServer } from '../../src/rpc/grpc.js';
import { createHandlers } from '../../src/rpc/handlers.js';
import { startHttpServer } from '../../src/rpc/http.js';
import type { CallReport } from '../../src/rpc/call.js';
import type { RpcServer } from '../../src/rpc/listener.js';
import type { CallContext, JobService, WatchRunsRequest, WatchStream } from '../../src/service/api.js';
import { createService, type Service } from '../../src/service/service.js';
import { createPool, type Pool } from '../../src/store/pool.js';
import type { StreamLimits } from '../../src/watch/hub.js';
import { silent } from './database.js';
import { FastClock } from './streams_clock.js';
import { waitFor } from './wait.js';

export interface StreamsRigOptions {
  readonly limits?: Partial<StreamLimits>;
  /** How many times faster than real time the server's clock goes; above 1 it polls instead of listening. */
  readonly speed?: number;
}

/** What the transport of one stream is doing: it waits for a message, or has been busy with one since a time. */
interface Writer {
  busySince: number | undefined;
}

const LISTEN = { host: '127.0.0.1', port: 0 };

/** A whole server in this process, with limits and a clock of the test's choice, whose streams can be looked into. */
export class StreamsRig {
  readonly clock: FastClock;
  readonly service: Service;
  /** Reports of calls by method and code; a call has to make exactly one. */
  readonly reported = new Map<string, number>();
  /** What a transport was given last, which nothing but a transport keeps. */
  lastMessage: WeakRef<object> | undefined;
  #opened = 0;
  #closed = 0;
  readonly #pools: readonly Pool[];
  readonly #writers = new Set<Writer>();
  #grpc: RpcServer | undefined;
  #http: RpcServer | undefined;

  private constructor(databaseUrl: string, { limits = {}, speed = 1 }: StreamsRigOptions) {
    this.clock = new FastClock(speed);
    const pool = createPool({ databaseUrl, connections: 5, log: silent });
    const watchPool = createPool({ databaseUrl, connections: 3, log: silent });
    const statePool = createPool({
      databaseUrl,
      connections: LIMITS.stateConnections,
      keeping: 0,
      log: silent,
    });
    this.#pools = [pool, watchPool, statePool];
    this.service = createService({
      pool,
      watchPool,
      statePool,
      // A LISTEN connection is given up when its echo is late, and on a fast clock it would be.
      listenUrl: speed === 1 ? databaseUrl : undefined,
      retention: { logMs: 0, runsMs: 0, partitionRevisions: 1_000_000 },
      streams: { ageMs: undefined, stallMs: 60_000, ...limits },
      clock: this.clock,
      log: silent,
    });
  }

  /** Connections to the database that the server has open: pools make them as they need them. */
  get databaseConnections(): number {
    return this.#pools.reduce((sum, pool) => sum + pool.size, 0);
  }

  static async start(databaseUrl: string, options: StreamsRigOptions = {}): Promise<StreamsRig> {
    const rig = new StreamsRig(databaseUrl, options);
    const { service } = rig;
    await service.start();
    const jobs: JobService = { ...service.jobs, watchRuns: (request, call) => rig.#watch(request, call) };
    const handlers = createHandlers(jobs, service.pipelines);
    const onCall = (report: CallReport): void => rig.#report(report);
    rig.#grpc = await startGrpcServer({ handlers, listen: LISTEN, log: silent, onCall, drainTimeoutMs: 500 });
    const ready = (): Promise<{ ok: boolean; detail: string }> => Promise.resolve({ ok: true, detail: '' });
    const http = { handlers, listen: LISTEN, log: silent, onCall, ready, drainTimeoutMs: 500 };
    rig.#http = await startHttpServer(http);
    return rig;
  }

  get grpcPort(): number {
    return this.#grpc?.port ?? 0;
  }

  get httpPort(): number {
    return this.#http?.port ?? 0;
  }

  get hub(): Service['hub'] {
    return this.service.hub;
  }

  /** Calls of WatchRuns that the transports have not reported as over. */
  get openCalls(): number {
    return this.#opened - this.#closed;
  }

  get openedCalls(): number {
    return this.#opened;
  }

  /** How many streams were offered a message and have not asked for the next one for so long. */
  blocked(forMs: number): number {
    const limit = performance.now() - forMs;
    return [...this.#writers].filter(({ busySince }) => busySince !== undefined && busySince < limit).length;
  }

  async empty(timeoutMs = 1000): Promise<void> {
    await waitFor(
      () => this.hub.streamCount === 0 && this.openCalls === 0 && this.#writers.size === 0,
      'nothing of the streams to be left',
      timeoutMs,
    );
  }

  async #watch(request: WatchRunsRequest, call: CallContext): Promise<WatchStream> {
    this.#opened += 1;
    const stream = await this.service.jobs.watchRuns(request, call);
    const writer: Writer = { busySince: undefined };
    this.#writers.add(writer);
    return {
      next: async () => {
        writer.busySince = undefined;
        const message = await stream.next();
        writer.busySince = performance.now();
        if (message !== undefined) this.lastMessage = new WeakRef(message);
        return message;
      },
      close: () => {
        this.#writers.delete(writer);
        stream.close();
      },
    };
  }

  #report({ method, code }: CallReport): void {
    const name = method.split('/').at(-1) ?? '';
    const key = `${name} ${code}`;
    this.reported.set(key, (this.reported.get(key) ?? 0) + 1);
    if (name === 'WatchRuns') this.#closed += 1;
  }

  async stop(): Promise<void> {
    await this.service.stop();
    await Promise.all([this.#grpc?.close(), this.#http?.close()]);
    await Promise.all(this.#pools.map((pool) => pool.close()));
  }
}
