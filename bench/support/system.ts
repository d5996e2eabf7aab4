import type { Context } from './bench.js';
import type { Cluster } from './cluster.js';
import { Child } from './ipc.js';
import type { Counted } from './loops.js';
import type { Measures } from './stats.js';

export interface ServerArgs {
  readonly databaseUrl: string;
  /** False for a Baton that gets no notifications. */
  readonly listen: boolean;
}

export interface ServerPlace {
  readonly grpcPort: number;
}

/** Of a Baton, which has more than that. */
export interface BatonPlace extends ServerPlace {
  readonly httpPort: number;
  readonly pid: number;
}

/** Every server answers it with its use. */
export interface UseQuestion {
  /** Collect garbage before, where node was started with `--expose-gc`: for memory, and not while CPU is measured. */
  readonly collect?: boolean;
}

export interface ServerUse {
  readonly cpuMicros: number;
  readonly rssBytes: number;
}

/** Where a client finds its system. */
export interface Place {
  readonly databaseUrl: string;
  readonly grpcPorts: readonly number[];
}

export type Params = Readonly<Record<string, number>>;

/** What a client's module in `systems/` opens: the operations that the benchmarks ask for, by name. */
export interface Operations {
  readonly operations: Readonly<Record<string, (params: Params) => Promise<Measures>>>;
  readonly close: () => Promise<void> | void;
}

export type Open = (place: Place) => Promise<Operations>;

/** What `systems/client.ts` is told to be, and asked. */
export interface ClientArgs {
  /** A module in `systems/` that exports `open`. */
  readonly client: string;
  readonly place: Place;
}

export interface ClientQuestion {
  readonly operation: string;
  readonly params: Params;
}

export interface SystemOptions {
  readonly client: string;
  /** A module in `systems/`; a library has none, its clients are all there is. */
  readonly server?: string;
  /** Default 1 where there is a server. */
  readonly servers?: number;
}

/** One system under test: a database of its own, servers if it has any, and clients, each in a process of its own. */
export class System {
  private constructor(
    private readonly cluster: Cluster,
    readonly databaseUrl: string,
    readonly servers: readonly Child[],
    private readonly client: Child,
  ) {}

  static async start({ cluster, serverArgv }: Context, options: SystemOptions): Promise<System> {
    const { client: module, server, servers: wanted = server === undefined ? 0 : 1 } = options;
    const databaseUrl = await cluster.createDatabase();
    const servers: Child[] = [];
    const grpcPorts: number[] = [];
    for (let index = 0; index < wanted; index += 1) {
      const args: ServerArgs = { databaseUrl, listen: true };
      const child = new Child(`systems/${server}.js`, args, serverArgv);
      servers.push(child);
      grpcPorts.push((await child.ask<ServerPlace>()).grpcPort);
    }
    const args: ClientArgs = { client: module, place: { databaseUrl, grpcPorts } };
    const client = new Child('systems/client.js', args);
    await client.ask();
    return new System(cluster, databaseUrl, servers, client);
  }

  do<T extends Measures = Measures>(operation: string, params: Params = {}): Promise<T> {
    return this.client.ask<T>({ operation, params } satisfies ClientQuestion);
  }

  /** As `do`, with the CPU that the servers took for each of what was sent, in microseconds. */
  async measure(operation: string, params: Params = {}): Promise<Measures> {
    const before = await this.#cpuMicros();
    const counted = await this.do<Counted>(operation, params);
    if (this.servers.length === 0) return counted;
    const used = (await this.#cpuMicros()) - before;
    return { ...counted, serverCpuMicros: used / (counted.sent ?? counted.count) };
  }

  async #cpuMicros(): Promise<number> {
    const uses = await Promise.all(this.servers.map((server) => server.ask<ServerUse>({})));
    return uses.reduce((sum, { cpuMicros }) => sum + cpuMicros, 0);
  }

  settle(): Promise<void> {
    return this.cluster.settle(this.databaseUrl);
  }

  async stop(): Promise<void> {
    await this.client.end();
    await Promise.all(this.servers.map((server) => server.end()));
    await this.cluster.dropDatabase(this.databaseUrl);
  }
}
