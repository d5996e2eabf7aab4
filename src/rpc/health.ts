import {
  status as GrpcCode,
  type handleServerStreamingCall,
  type ServerWritableStream,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { HealthImplementation } from 'grpc-health-check';
import { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { PipelineService } from '../../gen/baton/v1/pipeline_service_pb.js';
import { Bell } from '../base/bell.js';
import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import type { GrpcRegistry } from './grpc_services.js';

/** What can be asked about; '' is the server as a whole. They are well or ill together: all need the database. */
export const HEALTH_SERVICES: readonly string[] = ['', JobService.typeName, PipelineService.typeName];

const CHECK_INTERVAL_MS = 5000;
/** While the database is away: whoever chooses between servers should have this one back soon. */
const CHECK_AWAY_INTERVAL_MS = 1000;
/** A database that has not answered by then is taken for one that is away. */
const CHECK_TIMEOUT_MS = 4000;

const DETAILS = {
  starting: 'starting',
  ready: 'ready',
  database_away: 'the database cannot be reached at the moment',
  stopping: 'stopping',
} as const;
type State = keyof typeof DETAILS;

export interface HealthOptions {
  /** Asks whether the database can be worked with, on the way that calls take. A `BatonError` may say what it lacks. */
  readonly ping: () => Promise<unknown>;
  readonly clock: Clock;
  readonly log: Logger;
}

interface WatchRequest {
  readonly service: string;
}
type Watch = ServerWritableStream<WatchRequest, object>;
type WatchHandler = handleServerStreamingCall<WatchRequest, object>;

/**
 * Whether this server can do its work, for `grpc.health.v1.Health` and for `/readyz`. One regular look at the database
 * serves both, so that nobody makes work by asking often.
 *
 *     starting ──start──▶ ready ◀──▶ database_away
 *         └───────────────┴──stop──▶ stopping
 */
export class Health {
  readonly #options: HealthOptions;
  readonly #bell: Bell;
  readonly #grpc = new HealthImplementation(
    Object.fromEntries(HEALTH_SERVICES.map((service) => [service, 'NOT_SERVING' as const])),
  );
  readonly #watches = new Set<Watch>();
  #state: State = 'starting';
  #detail: string = DETAILS.starting;

  constructor(options: HealthOptions) {
    this.#options = options;
    this.#bell = new Bell(options.clock);
  }

  get ready(): { readonly ok: boolean; readonly detail: string } {
    return { ok: this.#state === 'ready', detail: this.#detail };
  }

  /** Registers `grpc.health.v1.Health`. */
  register(registry: GrpcRegistry): void {
    this.#grpc.addToServer({
      addService: (definition, implementation: UntypedServiceImplementation) =>
        registry.addService(definition, {
          ...implementation,
          watch: this.#watched(implementation['watch'] as WatchHandler),
        }),
    });
  }

  /** Everything is up: says so, and begins to look after the database, which was there a moment ago. */
  start(): void {
    this.#become('ready');
    void this.#run();
  }

  /**
   * Says that this server is stopping, before anything else of it stops. Open watches hear it and are ended, since a
   * server waits for its streams and these would never end by themselves.
   */
  stop(): void {
    this.#become('stopping');
    this.#bell.ring();
    for (const watch of this.#watches) endWatch(watch);
    this.#watches.clear();
  }

  async #run(): Promise<void> {
    const { clock, ping } = this.#options;
    while (this.#state !== 'stopping') {
      const startedAt = clock.now();
      const late = clock.after(CHECK_TIMEOUT_MS, () => this.#become('database_away'));
      // However late it is, it is waited for: asking again meanwhile would take another connection.
      await ping().then(
        () => this.#become('ready'),
        (error: unknown) => this.#become('database_away', error),
      );
      late.cancel();
      const pauseMs = this.ready.ok ? CHECK_INTERVAL_MS : CHECK_AWAY_INTERVAL_MS;
      await this.#bell.wait(Math.max(0, startedAt + pauseMs - clock.now()));
    }
  }

  #become(state: State, error?: unknown): void {
    if (this.#state === 'stopping') return;
    const detail = error instanceof BatonError ? error.message : DETAILS[state];
    if (this.#state === state && this.#detail === detail) return;
    if (state === 'database_away') this.#options.log.warn({ err: error }, `not ready: ${detail}`);
    if (state === 'ready' && this.#state === 'database_away') this.#options.log.info('ready again');
    this.#state = state;
    this.#detail = detail;
    for (const service of HEALTH_SERVICES)
      this.#grpc.setStatus(service, state === 'ready' ? 'SERVING' : 'NOT_SERVING');
  }

  #watched(watch: WatchHandler): WatchHandler {
    return (call) => {
      if (this.#state === 'stopping') return endWatch(call);
      this.#watches.add(call);
      call.once('cancelled', () => this.#watches.delete(call));
      // The package would remember every name that was ever asked for; a name unknown here stays unknown.
      if (HEALTH_SERVICES.includes(call.request.service)) watch(call);
      else call.write({ status: 'SERVICE_UNKNOWN' });
    };
  }
}

function endWatch(watch: Watch): void {
  watch.emit('error', { code: GrpcCode.UNAVAILABLE, details: 'the server is stopping' });
}
