import { readFile } from 'node:fs/promises';
import { FaultProxy } from './chaos_proxy.js';
import { freePorts } from './free_ports.js';
import { ServerProcess } from './process.js';
import { within } from './wait.js';

const LOG_CHANNEL = 'baton_log';

export interface ServerOptions {
  readonly databasePort: number;
  readonly database: string;
  /** False for a server that only polls, for the whole run. */
  readonly listen: boolean;
}

/** A stop may take 13 s while the database is silent, and begins when a server that was paused goes on. */
const STOP_TIMEOUT_MS = 45_000;

/** A Baton server as its clients know it: a process that comes and goes behind addresses that stay. */
export class ChaosServer {
  readonly #options: ServerOptions;
  readonly #grpcPort: number;
  readonly #httpPort: number;
  #process: ServerProcess | undefined;
  /** Between the server and the database. */
  readonly pool: FaultProxy;
  readonly listen: FaultProxy;
  /** Between the clients and the server. */
  readonly grpc: FaultProxy;
  readonly http: FaultProxy;
  /** Nothing is done to it now, as far as this harness knows. */
  healthy = false;
  starts = 0;
  /** What it has logged in all its lives, the newest last. */
  log = '';

  private constructor(
    options: ServerOptions,
    ports: readonly [number, number],
    proxies: readonly [FaultProxy, FaultProxy, FaultProxy, FaultProxy],
  ) {
    this.#options = options;
    [this.#grpcPort, this.#httpPort] = ports;
    [this.pool, this.listen, this.grpc, this.http] = proxies;
  }

  static async create(options: ServerOptions): Promise<ChaosServer> {
    const host = '127.0.0.1';
    const [grpcPort = 0, httpPort = 0] = await freePorts(2);
    const database = { host, port: options.databasePort };
    const server = new ChaosServer(
      options,
      [grpcPort, httpPort],
      [
        await FaultProxy.start(database),
        await FaultProxy.start({ ...database, channel: LOG_CHANNEL }),
        await FaultProxy.start({ host, port: grpcPort }),
        await FaultProxy.start({ host, port: httpPort }),
      ],
    );
    return server;
  }

  get grpcAddress(): string {
    return `127.0.0.1:${this.grpc.port}`;
  }

  get httpUrl(): string {
    return `http://127.0.0.1:${this.http.port}`;
  }

  get listening(): boolean {
    return this.#options.listen;
  }

  get proxies(): readonly FaultProxy[] {
    return [this.pool, this.listen, this.grpc, this.http];
  }

  /** Starts it, or finds it up. It is tried again for a while, since its database may be away too. */
  async up(): Promise<void> {
    const running = this.#process?.child;
    if (running !== undefined && running.exitCode === null && running.signalCode === null) return;
    const url = (proxy: FaultProxy): string =>
      `postgresql://baton@127.0.0.1:${proxy.port}/${this.#options.database}`;
    const args = ['serve', '--grpc-listen', `127.0.0.1:${this.#grpcPort}`];
    args.push('--http-listen', `127.0.0.1:${this.#httpPort}`, '--log-retention', '0', '--run-retention', '0');
    args.push('--database-url', url(this.pool), '--log-level', 'warn');
    if (this.#options.listen) args.push('--listen-url', url(this.listen));
    else args.push('--no-listen');
    for (let attempt = 1; ; attempt += 1) {
      const process = new ServerProcess(args);
      this.#process = process;
      void process.exited.then(() => (this.log = `${this.log}${process.stderr}`.slice(-200_000)));
      try {
        await process.ready();
        this.starts += 1;
        this.healthy = true;
        return;
      } catch (error) {
        process.child.kill('SIGKILL');
        if (attempt === 5) throw error;
      }
    }
  }

  async kill(): Promise<void> {
    this.healthy = false;
    this.signal('SIGKILL');
    if (this.#process !== undefined) await within(this.#process.exited, 'a killed server to be gone', 10_000);
  }

  signal(signal: NodeJS.Signals): void {
    this.#process?.child.kill(signal);
  }

  /** An orderly end. Says whether it came in time; a server that hangs is killed. */
  async terminate(): Promise<boolean> {
    this.healthy = false;
    const process = this.#process;
    if (process === undefined) return true;
    process.child.kill('SIGTERM');
    const ended = await within(process.exited, 'a server to stop', STOP_TIMEOUT_MS).then(
      () => true,
      () => false,
    );
    if (ended) return true;
    this.log = `${this.log}it did not stop; open:\n${await process.whatIsOpen()}\n`;
    await this.kill();
    return false;
  }

  /** Memory of the process in MiB, where the machine tells. */
  async residentMiB(): Promise<number> {
    const status = await readFile(`/proc/${this.#process?.child.pid}/status`, 'utf8').catch(() => '');
    return Math.round(Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) / 1024);
  }

  /** All that was logged, also by the process that runs now. */
  get logged(): string {
    return `${this.log}${this.#process?.stderr ?? ''}`;
  }

  async close(): Promise<void> {
    this.signal('SIGCONT');
    await this.kill().catch(() => undefined);
    for (const proxy of this.proxies) await proxy.close();
  }
}
