import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { Tally, type Metric, type Reading } from '../base/metrics.js';
import type { Pool, Queryable } from '../store/pool.js';
import { readHead, type LogHead } from '../store/sql/read_head.js';
import { readQueueUsage } from '../store/sql/read_queue_usage.js';
import type { Hub } from '../watch/hub.js';
import type { Listener } from '../watch/listener.js';
import type { LogTail } from '../watch/tail.js';
import type { JobService } from './api.js';
import type { Claims } from './claims.js';
import type { GroupCounts } from './group_commit.js';
import type { Housekeeping } from './housekeeping.js';
import type { Schedules } from './schedules.js';

/** How long what was read from the database is shown again, whoever asks and however often. */
const CACHE_MS = 5000;
/** How long those who ask wait for the database; the common limit of a whole scrape is 10 s. */
const READ_TIMEOUT_MS = 1000;

/** What is counted at the calls themselves, for which no part below has a count of its own. */
export class CallCounts {
  /** Claims that were given to a worker. */
  claims = 0;
  /** Calls that were refused because this server has too much already. */
  readonly limits = new Tally<'claim_waiters' | 'streams'>(['claim_waiters', 'streams']);
}

/** The same service, counting. */
export function counted(jobs: JobService, counts: CallCounts): JobService {
  const countLimit =
    (limit: 'claim_waiters' | 'streams') =>
    (error: unknown): never => {
      if (error instanceof BatonError && error.reason === 'OVERLOADED') counts.limits.add(limit);
      throw error;
    };
  return {
    ...jobs,
    async claimNext(request, call) {
      const claims = await jobs.claimNext(request, call).catch(countLimit('claim_waiters'));
      counts.claims += claims.length;
      return claims;
    },
    async updateStatus(request, call) {
      const response = await jobs.updateStatus(request, call);
      counts.claims += response.claims.length;
      return response;
    },
    watchRuns: (request, call) => jobs.watchRuns(request, call).catch(countLimit('streams')),
  };
}

interface DatabaseState {
  readonly queueUsage: number;
  readonly head: LogHead;
}

/**
 * What only the database knows. It is read when somebody asks, at most once per `CACHE_MS` and never twice at a time,
 * and is undefined when it does not come in time: whoever looks at a server in trouble must get an answer.
 */
export class DatabaseReading {
  #pending: Promise<DatabaseState | undefined> | undefined;
  #state: DatabaseState | undefined;
  #staleAt = Number.NEGATIVE_INFINITY;

  constructor(
    private readonly db: Queryable,
    private readonly clock: Clock,
  ) {}

  get(): Promise<DatabaseState | undefined> {
    if (this.#pending === undefined && this.clock.now() >= this.#staleAt) {
      // Counts for failures too: a database that is away is not asked more often than one that is there.
      this.#staleAt = this.clock.now() + CACHE_MS;
      this.#pending = this.#read();
    }
    return this.#pending === undefined ? Promise.resolve(this.#state) : this.#inTime(this.#pending);
  }

  async #read(): Promise<DatabaseState | undefined> {
    try {
      // One after the other: together they would take two of the few connections that read the log.
      const queueUsage = await readQueueUsage(this.db);
      this.#state = { queueUsage, head: await readHead(this.db) };
    } catch {
      this.#state = undefined;
    }
    this.#pending = undefined;
    return this.#state;
  }

  #inTime(pending: Promise<DatabaseState | undefined>): Promise<DatabaseState | undefined> {
    return new Promise((resolve) => {
      const timer = this.clock.after(READ_TIMEOUT_MS, () => resolve(undefined));
      void pending.then((state) => {
        timer.cancel();
        resolve(state);
      });
    });
  }
}

export interface GaugeSources {
  readonly hub: Hub;
  readonly tail: LogTail;
  readonly claims: Claims;
  /** Undefined where changes are found by polling only. */
  readonly listener: Listener | undefined;
  readonly housekeeping: Housekeeping;
  readonly schedules: Schedules;
  readonly pools: { readonly calls: Pool; readonly watch: Pool; readonly state: Pool };
  readonly counts: CallCounts;
  readonly groups: readonly GroupCounts[];
  readonly database: DatabaseReading;
}

/** Everything that the service shows of itself; `docs/metrics.md` says what to make of it. */
export function serviceMetrics(sources: GaugeSources): Metric[] {
  return [
    ...notificationMetrics(sources),
    ...logMetrics(sources),
    ...streamMetrics(sources),
    ...callMetrics(sources),
    ...groupMetrics(sources),
    ...timerMetrics(sources),
  ];
}

function notificationMetrics({ listener, tail, database }: GaugeSources): Metric[] {
  const connected = (): Reading => (listener === undefined ? undefined : Number(listener.listening));
  return [
    gauge(
      'baton_listen_connected',
      'Whether the LISTEN connection is up; absent when polling only.',
      connected,
    ),
    gauge(
      'baton_listen_echo_seconds',
      'Time that a notification to this server itself takes, from sending to hearing it.',
      () => seconds(listener?.echoLagMs),
    ),
    gauge(
      'baton_notification_queue_usage_ratio',
      'How full the notification queue of the PostgreSQL cluster is, 0 to 1.',
      async () => (await database.get())?.queueUsage,
    ),
    counter(
      'baton_polls_found_events_total',
      'Regular looks at the log that found changes which no notification had announced.',
      () => tail.silentFinds,
    ),
  ];
}

function logMetrics({ hub, database }: GaugeSources): Metric[] {
  return [
    gauge('baton_log_head_revision', 'Revision of the last committed change.', async () =>
      fromBigint((await database.get())?.head.revision),
    ),
    gauge('baton_log_oldest_revision', 'Oldest revision of the kept history.', async () =>
      fromBigint((await database.get())?.head.oldestRevision),
    ),
    gauge(
      'baton_log_position_revision',
      'Revision up to which this server has read the log; absent while nobody needs it to.',
      () => fromBigint(hub.position),
    ),
    counter(
      'baton_events_published_total',
      'Events of the log that were handed to the live streams of this server, each counted once.',
      () => hub.publishedEvents,
    ),
  ];
}

function streamMetrics({ hub }: GaugeSources): Metric[] {
  return [
    {
      ...gauge('baton_streams', 'Open watch streams by state.', () => [
        { labels: { state: 'live' }, value: hub.liveCount },
        { labels: { state: 'catching_up' }, value: hub.streamCount - hub.liveCount },
      ]),
      labels: ['state'],
    },
    gauge(
      'baton_stream_held_bytes',
      'Bytes held for streams whose readers are behind, as estimated.',
      () => hub.heldBytes,
    ),
    {
      ...counter(
        'baton_streams_ended_total',
        'Watch streams that have ended, by the reason in the error, or CLOSED for a good end or a reader that left.',
        () => hub.endedStreams.samples('reason'),
      ),
      labels: ['reason'],
    },
  ];
}

function callMetrics({ claims, counts, pools }: GaugeSources): Metric[] {
  return [
    gauge('baton_claims_waiting', 'ClaimNext calls that have not been answered.', () => claims.waiting),
    counter('baton_claims_handed_out_total', 'Claims that were given to workers.', () => counts.claims),
    {
      ...counter(
        'baton_limits_reached_total',
        'Calls refused with OVERLOADED, by the limit that was reached.',
        () => counts.limits.samples('limit'),
      ),
      labels: ['limit'],
    },
    {
      ...gauge('baton_pool_connections', 'Connections to the database by pool and state.', () =>
        Object.entries(pools).flatMap(([pool, { size, idle }]) => [
          { labels: { pool, state: 'used' }, value: size - idle },
          { labels: { pool, state: 'idle' }, value: idle },
        ]),
      ),
      labels: ['pool', 'state'],
    },
    {
      ...gauge('baton_pool_waiting', 'Statements that wait for a connection, by pool.', () =>
        Object.entries(pools).map(([pool, { waiting }]) => ({ labels: { pool }, value: waiting })),
      ),
      labels: ['pool'],
    },
  ];
}

function timerMetrics({ housekeeping, schedules }: GaugeSources): Metric[] {
  return [
    counter(
      'baton_leases_ended_total',
      'Leases that this server has ended because their time was over.',
      () => housekeeping.endedLeases,
    ),
    counter(
      'baton_scheduled_runs_total',
      'Runs that this server has created for schedules.',
      () => schedules.createdRuns,
    ),
    counter(
      'baton_schedule_failures_total',
      'Ticks of schedules that this server could not make and put off.',
      () => schedules.failures,
    ),
  ];
}

function groupMetrics({ groups }: GaugeSources): Metric[] {
  const each = (read: (group: GroupCounts) => number) => () =>
    groups.map((group) => ({ labels: { group: group.name }, value: read(group) }));
  const labels = ['group'];
  return [
    {
      ...gauge(
        'baton_group_waiting',
        'Items of merged calls that have not been answered, by group.',
        each(({ waiting }) => waiting),
      ),
      labels,
    },
    {
      ...counter(
        'baton_group_commits_total',
        'Transactions that were made for merged calls, by group.',
        each(({ groups: sent }) => sent),
      ),
      labels,
    },
    {
      ...counter(
        'baton_group_items_total',
        'Items that went into them: the ratio says how many share a commit.',
        each(({ items }) => items),
      ),
      labels,
    },
    {
      ...counter(
        'baton_group_refused_total',
        'Calls refused with OVERLOADED because too many waited already, by group.',
        each(({ refused }) => refused),
      ),
      labels,
    },
  ];
}

function gauge(name: string, help: string, read: Metric['read']): Metric {
  return { name, help, type: 'gauge', labels: [], read };
}

function counter(name: string, help: string, read: Metric['read']): Metric {
  return { name, help, type: 'counter', labels: [], read };
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : ms / 1000;
}

/** Exact up to 2^53, which is enough to see how far it is from one to another. */
function fromBigint(value: bigint | undefined): number | undefined {
  return value === undefined ? undefined : Number(value);
}
