import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import { LIMITS } from '../base/limits.js';
import type { Metric } from '../base/metrics.js';
import { Room } from '../base/room.js';
import { SharedRead } from '../base/shared_read.js';
import type { Pool } from '../store/pool.js';
import { readHead } from '../store/sql/read_head.js';
import { Hub, type StreamLimits } from '../watch/hub.js';
import { Listener } from '../watch/listener.js';
import { LogIdentity } from '../watch/identity.js';
import { OwnWork } from '../watch/own_work.js';
import { Snapshots } from '../watch/snapshots.js';
import { LogTail, readLogPage } from '../watch/tail.js';
import type { JobService, PipelineService } from './api.js';
import { batchUpdateStatus } from './batch_update_status.js';
import { cancelRun, cancelRuns } from './cancel_runs.js';
import { claimNext } from './claim_next.js';
import { ClaimAnswers } from './claim_answers.js';
import { Claims } from './claims.js';
import { CreateRuns } from './create_run.js';
import { createExtendGroup, extendLeases } from './extend_leases.js';
import { CallCounts, counted, DatabaseReading, serviceMetrics } from './gauges.js';
import { getRun } from './get_run.js';
import { Stats } from './get_stats.js';
import { Housekeeping } from './housekeeping.js';
import { listRunEvents } from './list_run_events.js';
import { listRuns } from './list_runs.js';
import { NextRuns } from './next_runs.js';
import { deletePipeline, getPipeline, listPipelines, putPipeline, setPaused } from './pipelines.js';
import { Retention, type RetentionPolicy } from './retention.js';
import { retryRun, retryRuns } from './retry_runs.js';
import { Schedules } from './schedules.js';
import { createUpdateGroup } from './update_group.js';
import { updateStatus } from './update_status.js';
import { watchRuns } from './watch_runs.js';

export interface ServiceOptions {
  readonly pool: Pool;
  /** For reading the log and for housekeeping; see `startServer`. */
  readonly watchPool: Pool;
  /** For reading states, which may take as long as their readers do. */
  readonly statePool: Pool;
  /** For the one LISTEN connection; undefined to find changes by polling only. */
  readonly listenUrl: string | undefined;
  readonly retention: RetentionPolicy;
  readonly streams: StreamLimits;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The running service behind all transports. */
export interface Service {
  readonly jobs: JobService;
  readonly pipelines: PipelineService;
  readonly hub: Hub;
  readonly claims: Claims;
  /** What this service shows of itself. */
  readonly metrics: readonly Metric[];
  /** Makes sure of the log's epoch, then begins. */
  start(): Promise<void>;
  /** Answers what waits, ends the streams with a last token, and lets go of the database. */
  stop(): Promise<void>;
}

/**
 * Wires the floors below the transports: calls go to the pool; the listener rings the tail; the tail feeds the hub
 * (streams) and the claims (waiting workers).
 */
export function createService({
  pool,
  watchPool,
  statePool,
  listenUrl,
  retention: policy,
  streams,
  clock,
  log,
}: ServiceOptions): Service {
  const hub: Hub = new Hub({
    clock,
    readPage: (after, payload, epoch) => readLogPage(watchPool, after, payload, epoch),
    onDemand: () => tail.ring(),
    onForeign: () => tail.checkIdentity(),
    limits: streams,
  });
  const next = new NextRuns(clock);
  const ownWork = new OwnWork();
  const answers = new ClaimAnswers(pool, log);
  const claims: Claims = new Claims({
    ...{ pool, next, answers, clock, ownWork },
    onWaiting: () => tail.ring(),
    onUntold: () => tail.ring(),
  });
  const identity = new LogIdentity(watchPool, log);
  const tail = new LogTail({
    db: watchPool,
    hub,
    identity,
    clock,
    log,
    wantsWork: () => claims.waiting > 0,
    onWork: (work) => claims.announce(work),
    ownWork,
  });
  const listener =
    listenUrl === undefined
      ? undefined
      : new Listener({
          databaseUrl: listenUrl,
          clock,
          log,
          onRing: (processId) => {
            const isOwn = processId !== undefined && pool.owns(processId);
            // Streams have to see it; whoever waits for a claim was told at the commit.
            if (isOwn && hub.demand === 'none') tail.passOver();
            else tail.ring();
          },
          onConnect: () => tail.checkIdentity(),
        });
  pool.onOver(() => {
    if (hub.demand === 'none') tail.ring();
  });
  const housekeeping = new Housekeeping({ db: watchPool, claims, clock, log });
  const schedules = new Schedules({ pool: watchPool, clock, log });
  const retention = new Retention({ pool, clock, log, policy });
  const creates = new CreateRuns(pool, clock, (runs) => claims.committed(runs));
  const updates = createUpdateGroup({ pool, claims, next, answers, clock });
  const extensions = createExtendGroup(pool, clock);
  const stats = new Stats(pool);
  const snapshots = new Snapshots(statePool, clock);
  const head = new SharedRead(() => readHead(pool));
  const counts = new CallCounts();
  const largeRuns = new Room(LIMITS.largeRunsRead, LIMITS.roomMs);
  const jobs: JobService = {
    createRun: (request, call) => creates.createRun(request, call),
    batchCreateRuns: (requests, call) => creates.batchCreateRuns(requests, call),
    getRun: (id, call) => getRun(pool, id, largeRuns, call),
    listRuns: (request) => listRuns(pool, request),
    claimNext: (request, call) => claimNext(claims, request, call),
    updateStatus: (request, call) => updateStatus(updates, claims, request, call),
    batchUpdateStatus: (requests, call) => batchUpdateStatus(updates, log, requests, call),
    extendLeases: (request, call) => extendLeases(extensions, request, call),
    cancelRun: (request) => cancelRun(pool, request),
    cancelRuns: (request, call) => cancelRuns(pool, request, call),
    retryRun: (request) => retryRun(pool, request),
    retryRuns: (request, call) => retryRuns(pool, request, call),
    listRunEvents: (request) => listRunEvents(pool, request),
    watchRuns: (request, call) => watchRuns({ pool, hub, snapshots, identity, head }, request, call),
  };

  return {
    hub,
    claims,
    metrics: serviceMetrics({
      hub,
      tail,
      claims,
      listener,
      housekeeping,
      schedules,
      pools: { calls: pool, watch: watchPool, state: statePool },
      counts,
      groups: [creates.plain, creates.named, updates, extensions],
      database: new DatabaseReading(watchPool, clock),
    }),
    jobs: counted(jobs, counts),
    pipelines: {
      putPipeline: (definition) => putPipeline(pool, definition),
      getPipeline: (name) => getPipeline(pool, name),
      listPipelines: (request) => listPipelines(pool, request),
      deletePipeline: (name) => deletePipeline(pool, name),
      pausePipeline: (request) => setPaused(pool, request, true),
      resumePipeline: (request) => setPaused(pool, request, false),
      getStats: (pipeline) => stats.get(pipeline),
    },
    async start() {
      await identity.check();
      listener?.start();
      tail.start();
      housekeeping.start();
      schedules.start();
      retention.start();
    },
    async stop() {
      hub.stop(
        new BatonError('SERVER_STOPPING', 'this server is stopping; go on from the last token elsewhere', {
          retryDelayMs: 100,
        }),
      );
      await Promise.all([
        claims.stop(),
        housekeeping.stop(),
        schedules.stop(),
        retention.stop(),
        listener?.stop(),
        tail.stop(),
      ]);
    },
  };
}
