import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  LeaseExtensionSchema,
  LeaseOutcome,
  type LeaseExtension,
  type LeaseExtensionResult,
} from '../../gen/baton/v1/job_service_pb.js';
import { Bell } from '../base/bell.js';
import { LIMITS } from '../base/limits.js';
import type { WorkerCalls } from './worker_calls.js';
import { retryAfterMs, workerClock } from './worker_clock.js';
import { callFailure } from './worker_errors.js';
import { callTimeoutMs } from './worker_lease.js';
import type { HeldRun } from './worker_run.js';
import type { WorkerErrorContext } from './worker_types.js';

const IDLE_MS = 60_000;
/** Checkpoints in one call: as protobuf, 64 KiB of JSON may be seven times as large, and a call takes 16 MiB. */
const CHECKPOINTS_MAX = 30;
/** A renewal that fails is tried again so often within a lease, at least. */
const TRIES_IN_LEASE = 8;

/**
 * Keeps the leases of all runs of one worker, and brings their news to the server. One call at a time:
 *
 *   1. When a third of a lease has passed, all are extended together, so that they stay together.
 *   2. Urgent news go at once, alone or with other urgent ones, and extend only their own leases.
 *   3. A call that fails is repeated with growing pauses; what it carried is sent with the next one.
 */
export class Renewals {
  readonly #calls: WorkerCalls;
  readonly #onError: (error: Error, context: WorkerErrorContext) => void;
  readonly #held = new Set<HeldRun>();
  readonly #bell = new Bell(workerClock);
  #failures = 0;
  #notBeforeMs = 0;
  #stopped = false;

  constructor(calls: WorkerCalls, onError: (error: Error, context: WorkerErrorContext) => void) {
    this.#calls = calls;
    this.#onError = onError;
  }

  add(held: HeldRun): void {
    this.#held.add(held);
    this.#bell.ring();
  }

  /** Whatever the server says of the lease of this run from now on is of no interest. */
  remove(held: HeldRun): void {
    this.#held.delete(held);
  }

  /** There are urgent news. */
  ring(): void {
    this.#bell.ring();
  }

  stop(): void {
    this.#stopped = true;
    this.#bell.ring();
  }

  /** Works until `stop`. */
  async run(): Promise<void> {
    while (!this.#stopped) {
      const waitMs = this.#dueMs() - workerClock.now();
      if (waitMs > 0) await this.#bell.wait(Math.min(waitMs, IDLE_MS));
      else await this.#round();
    }
  }

  /** When the next call is due; the past when it is overdue. */
  #dueMs(): number {
    let dueMs = Number.POSITIVE_INFINITY;
    for (const held of this.#held) {
      if (!held.needsLease) continue;
      dueMs = Math.min(dueMs, isUrgent(held) ? 0 : held.lease.renewMs);
    }
    return Math.max(dueMs, this.#notBeforeMs);
  }

  async #round(): Promise<void> {
    const nowMs = workerClock.now();
    const held = [...this.#held].filter(({ needsLease }) => needsLease);
    const isTime = held.some(({ lease }) => lease.renewMs <= nowMs);
    const chosen = isTime ? held : held.filter(isUrgent);
    for (let from = 0; from < chosen.length && !this.#stopped;) {
      const { batch, leases } = takeBatch(chosen, from);
      from += batch.length;
      if (!(await this.#extend(batch, leases))) return;
    }
  }

  /** Says whether the server could be asked. */
  async #extend(batch: readonly HeldRun[], leases: LeaseExtension[]): Promise<boolean> {
    const sentMs = workerClock.now();
    const shortestMs = Math.min(...batch.map(({ lease }) => lease.durationMs));
    try {
      const { results } = await this.#calls.extendLeases({ leases }, callTimeoutMs(shortestMs));
      this.#failures = 0;
      batch.forEach((held, index) => this.#apply(held, results[index], sentMs));
      return true;
    } catch (cause) {
      this.#fail(batch, leases, cause, shortestMs);
      return false;
    }
  }

  #apply(held: HeldRun, result: LeaseExtensionResult | undefined, sentMs: number): void {
    // Once its end is being reported, the report has its news, and the end of its lease is nothing but its success.
    if (!this.#held.has(held)) return;
    const outcome = result?.outcome ?? LeaseOutcome.UNSPECIFIED;
    if (outcome === LeaseOutcome.OK || outcome === LeaseOutcome.CANCEL_REQUESTED) {
      held.mail.arrived();
      if (outcome === LeaseOutcome.CANCEL_REQUESTED) held.abort('canceled');
      held.renewed(sentMs);
      return;
    }
    held.mail.returned();
    if (outcome === LeaseOutcome.LEASE_LOST) held.abort('lease_lost');
  }

  #fail(batch: readonly HeldRun[], leases: LeaseExtension[], cause: unknown, leaseMs: number): void {
    const failure = callFailure(cause);
    this.#onError(failure.error, { during: 'renewal' });
    const isRefused = failure.kind === 'refused';
    const guilty = isRefused ? namedBy(failure.fields, leases) : new Set<number>();
    batch.forEach((held, index) => {
      if (!this.#held.has(held)) return;
      if (guilty.has(index)) held.mail.refused(failure.error);
      else held.mail.returned();
    });
    // Without the news that were refused it is tried again at once: the leases do not wait for their writer.
    if (guilty.size > 0) return;
    this.#failures += 1;
    const askedMs = failure.kind === 'again' ? failure.delayMs : 0;
    this.#notBeforeMs =
      workerClock.now() + retryAfterMs(this.#failures, askedMs, Math.max(50, leaseMs / TRIES_IN_LEASE));
  }
}

function isUrgent({ isConfirming, mail }: HeldRun): boolean {
  return isConfirming || mail.isUrgent;
}

/** As many runs as one call takes, with their news. */
function takeBatch(
  chosen: readonly HeldRun[],
  from: number,
): { readonly batch: HeldRun[]; readonly leases: LeaseExtension[] } {
  const batch: HeldRun[] = [];
  const leases: LeaseExtension[] = [];
  let checkpoints = 0;
  for (const held of chosen.slice(from, from + LIMITS.batchItems)) {
    if (checkpoints === CHECKPOINTS_MAX) break;
    const lease: MessageInitShape<typeof LeaseExtensionSchema> = {
      runId: held.run.id,
      leaseToken: held.leaseToken,
      ...held.mail.take(),
    };
    if (lease.checkpoint !== undefined) checkpoints += 1;
    batch.push(held);
    leases.push(create(LeaseExtensionSchema, lease));
  }
  return { batch, leases };
}

/** Whose news the server does not take. Where it does not say, it may be those of any. */
function namedBy(fields: readonly string[], leases: readonly LeaseExtension[]): Set<number> {
  const named = fields.flatMap((field) => /^leases\[(\d+)\]\./.exec(field)?.[1] ?? []).map(Number);
  const suspects = leases.flatMap((lease, index) =>
    lease.progress === undefined && lease.statusMessage === undefined && lease.checkpoint === undefined
      ? []
      : [index],
  );
  const guilty = suspects.filter((index) => named.includes(index));
  return new Set(guilty.length > 0 ? guilty : suspects);
}
