import type { Row } from '../support/chaos_canonical.js';
import { timeOf } from '../support/chaos_canonical.js';
import { connect } from '../support/chaos_sql.js';
import type { Truth } from '../support/chaos_truth.js';

/** One event as plain SQL reads it, with what the write-ahead log adds. */
export interface LogEvent {
  readonly revision: bigint;
  readonly xid: string;
  readonly type: string;
  readonly runId: string;
  readonly version: bigint;
  readonly pipeline: string;
  readonly stage: string;
  readonly status: string;
  readonly state: string;
  readonly label: string;
  /** What `max_active_per_key` counts by; '' for a run that has no key. */
  readonly key: string;
  readonly attempt: number;
  readonly attemptsAllowed: number;
  readonly ownMaxAttempts: number | undefined;
  readonly workerId: string;
  readonly leaseId: string | undefined;
  readonly cancelRequested: boolean;
  readonly statusMessage: string;
  readonly errorCode: string | undefined;
  readonly requestId: string;
  /** Milliseconds of the database's clock just before the commit. */
  readonly appendMs: number;
  /** The event of this run before. */
  readonly before: LogEvent | undefined;
}

const SQL = `
select
  e.revision::text as revision, e.type::text as type, e.run_id::text as run_id, e.version::text as version, e.pipeline,
  e.stage, e.status, e.state::text as state, coalesce(e.labels->>'intent', '') as label,
  coalesce(nullif(e.concurrency_key, ''), e.repository) as key, e.attempt, e.attempts_allowed, r.max_attempts,
  e.worker_id, e.lease_id::text as lease_id, e.cancel_requested, e.status_message, e.error_code,
  coalesce(e.request_id, '') as request_id, extract(epoch from e.append_time)::float8 * 1000 as append_ms
from baton.run_events e
join baton.runs r on r.id = e.run_id
order by e.revision`;

interface SqlRow {
  revision: string;
  type: string;
  run_id: string;
  version: string;
  pipeline: string;
  stage: string;
  status: string;
  state: string;
  label: string;
  key: string;
  attempt: number;
  attempts_allowed: number;
  max_attempts: number | null;
  worker_id: string;
  lease_id: string | null;
  cancel_requested: boolean;
  status_message: string;
  error_code: string | null;
  request_id: string;
  append_ms: number;
}

/** The whole log in the order of commits. It has to be the one that the write-ahead log tells. */
export async function readLog(databaseUrl: string, truth: Truth): Promise<LogEvent[]> {
  const client = await connect(databaseUrl);
  const { rows } = await client.query<SqlRow>(SQL);
  await client.end();
  const latest = new Map<string, LogEvent>();
  const inTable = new Set(rows.map(({ revision }) => BigInt(revision)));
  const missing = truth.events.filter(({ revision }) => !inTable.has(revision));
  if (missing.length > 0 || rows.length !== truth.events.length)
    throw new Error(
      `the table has ${rows.length} events, the write-ahead log ${truth.events.length}; not in the table: ` +
        missing.map(({ text, xid }) => `${text.bare} of transaction ${xid}`).join('\n'),
    );
  return rows.map((row, index) => {
    const told = truth.events[index];
    const event: LogEvent = {
      revision: BigInt(row.revision),
      xid: told?.xid ?? '',
      type: row.type,
      runId: row.run_id,
      version: BigInt(row.version),
      pipeline: row.pipeline,
      stage: row.stage,
      status: row.status,
      state: row.state,
      label: row.label,
      key: row.key,
      attempt: row.attempt,
      attemptsAllowed: row.attempts_allowed,
      ownMaxAttempts: row.max_attempts ?? undefined,
      workerId: row.worker_id,
      leaseId: row.lease_id ?? undefined,
      cancelRequested: row.cancel_requested,
      statusMessage: row.status_message,
      errorCode: row.error_code ?? undefined,
      requestId: row.request_id,
      appendMs: row.append_ms,
      before: latest.get(row.run_id),
    };
    latest.set(event.runId, event);
    const same =
      told !== undefined &&
      told.revision === event.revision &&
      told.runId === event.runId &&
      told.version === event.version &&
      told.after.status === event.status &&
      told.after.stage === event.stage &&
      told.after.state === event.state;
    if (!same)
      throw new Error(
        `the write-ahead log tells ${told?.text.bare} where the table has revision ${event.revision}`,
      );
    return event;
  });
}

interface LeaseRow {
  readonly number: bigint;
  readonly leaseId: string | undefined;
  readonly expireMs: number;
  readonly state: string;
}

/**
 * Follows the rows of runs in the order of commits, for what no event tells: the lease number, which is the fence, and
 * extensions without news.
 */
export class LeaseWatch {
  readonly #rows = new Map<string, LeaseRow>();
  /** All expiries that a lease ever had, in order. */
  readonly expiries = new Map<string, number[]>();
  /** When the lease ended that a version of a run was written under, or that it ended: by `run version`. */
  readonly expiryBefore = new Map<string, number>();
  readonly problems: string[] = [];
  checked = 0;

  take(row: Row): void {
    const id = row['id'] ?? '';
    const next: LeaseRow = {
      number: BigInt(row['lease_number'] ?? -1),
      leaseId: row['lease_id'],
      expireMs: timeOf(row['lease_expire_time']) ?? 0,
      state: row['state'] ?? '',
    };
    const before = this.#rows.get(id);
    this.#rows.set(id, next);
    this.checked += 1;
    const version = row['version'] ?? '';
    if (before?.leaseId !== undefined) this.expiryBefore.set(`${id} ${version}`, before.expireMs);
    if (before !== undefined && next.number < before.number)
      this.problems.push(`run ${id} version ${version}: its lease number fell to ${next.number}`);
    if (next.leaseId === undefined) return;
    const known = this.expiries.get(next.leaseId);
    if (next.leaseId === before?.leaseId) {
      if (known !== undefined && known.at(-1) !== next.expireMs) known.push(next.expireMs);
      if (next.expireMs < before.expireMs)
        this.problems.push(`run ${id} version ${version}: its lease was made shorter`);
      return;
    }
    this.expiries.set(next.leaseId, [next.expireMs]);
    if (known !== undefined) this.problems.push(`lease ${next.leaseId} was given out twice`);
    if (before?.leaseId !== undefined)
      this.problems.push(`run ${id} version ${version}: a second lease while one was held`);
    if (before !== undefined && next.number !== before.number + 1n)
      this.problems.push(`run ${id} version ${version}: lease number ${next.number} after ${before.number}`);
  }
}
