import type { LogEvent } from './log.js';

export function group<T, K>(items: readonly T[], keyOf: (item: T) => K | undefined): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    if (key === undefined) continue;
    const members = groups.get(key);
    if (members === undefined) groups.set(key, [item]);
    else members.push(item);
  }
  return groups;
}

/** The marker of the report that made a change; what the run still carries from before is no new report. */
function markerOf(event: LogEvent): string | undefined {
  const { statusMessage, before, type } = event;
  if (statusMessage === '') return undefined;
  return statusMessage !== before?.statusMessage || type === 'UPDATED' ? statusMessage : undefined;
}

/** The log by what is asked of it; the events of each key are in the order of commits. */
export class LogIndex {
  /** By `run version`. */
  readonly byVersion: ReadonlyMap<string, LogEvent>;
  /** By the marker of the report that made the change. */
  readonly byMarker: ReadonlyMap<string, LogEvent[]>;
  readonly byRun: ReadonlyMap<string, LogEvent[]>;
  readonly byLease: ReadonlyMap<string, LogEvent[]>;
  /** Claims by the name that a worker has for this one. */
  readonly claimsBy: ReadonlyMap<string, LogEvent[]>;
  readonly createdBy: ReadonlyMap<string, LogEvent[]>;

  constructor(log: readonly LogEvent[]) {
    this.byVersion = new Map(log.map((event) => [`${event.runId} ${event.version}`, event]));
    this.byMarker = group(log, markerOf);
    this.byRun = group(log, ({ runId }) => runId);
    this.byLease = group(log, ({ leaseId }) => leaseId);
    this.claimsBy = group(log, ({ type, workerId }) => (type === 'CLAIMED' ? workerId : undefined));
    this.createdBy = group(log, ({ type, label }) => (type === 'CREATED' ? label : undefined));
  }

  /** The event that ended a lease. */
  endOf(leaseId: string): LogEvent | undefined {
    const last = this.byLease.get(leaseId)?.at(-1);
    return last?.state === 'ACTIVE' ? undefined : last;
  }

  /** The server took the claim for undelivered and gave the run back, or canceled it where that was asked for. */
  wasHandedBack(leaseId: string): boolean {
    const end = this.endOf(leaseId);
    if (end === undefined || markerOf(end) !== undefined) return false;
    return end.type === 'RELEASED' || (end.type === 'CANCELED' && end.errorCode !== 'LEASE_EXPIRED');
  }
}
