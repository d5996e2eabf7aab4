import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import type { Workplace } from './pipelines.js';

/** What a call came to: OK, the reason of an error, or UNKNOWN when nobody said. */
export type Answer = string;
export const OK = 'OK';
export const UNKNOWN = 'UNKNOWN';

/** One time that a call was sent. Times are milliseconds of the machine's clock, which is the database's too. */
export interface Send {
  readonly at: number;
  readonly endedAt: number;
  readonly answer: Answer;
  /** The client's own proxy kept the answer back. */
  readonly swallowed: boolean;
}

/** One thing that somebody wanted, with all the times that it was sent in the very same words. */
interface Intent {
  readonly sends: readonly Send[];
}

/** The outcome that the client has in hand: that of the first send which was answered for good. */
export function answerOf({ sends }: Intent): Answer {
  return sends.find(({ answer }) => answer !== UNKNOWN)?.answer ?? UNKNOWN;
}

/** A claim as its worker got it. */
export interface Held {
  readonly runId: string;
  readonly token: string;
  readonly leaseId: string;
  readonly attempt: number;
  readonly version: bigint;
  readonly place: Workplace;
  readonly leaseMs: number;
}

/** A worker names itself anew for each claim, so that the log says which claim was whose. */
export interface ClaimIntent extends Intent {
  readonly workerId: string;
  readonly place: Workplace;
  readonly maxRuns: number;
  readonly waitMs: number;
  readonly requestId: string;
  /** With each answer what it gave. */
  readonly answers: Held[][];
}

export type Purpose =
  'done' | 'retry' | 'fail' | 'cancel' | 'release' | 'progress' | 'extend' | 'illegal' | 'stale';

/** A report under one token. Its marker travels as the status message, so the log says which change it made. */
export interface UpdateIntent extends Intent {
  readonly marker: string;
  readonly runId: string;
  readonly leaseId: string;
  readonly purpose: Purpose;
  /** A report about the work, which may be written once for each time that it is sent; else a move. */
  readonly isNews: boolean;
  /** The claim that went with it in one transaction. */
  readonly next: ClaimIntent | undefined;
  /** The run as the last OK showed it. */
  shown: Run | undefined;
}

/** An extension without news: no event tells of it, only the row of the run. */
export interface ExtendIntent extends Intent {
  readonly leaseId: string;
  /** A timeout bounds the lease, so that several extensions may end at the same time. */
  readonly bounded: boolean;
  /** What the last answer said: an expiry, or that the lease was lost. */
  outcome: { readonly lost: boolean; readonly expireMs: number } | undefined;
}

/** Runs that were asked for together, by an API call or an SQL transaction, told by a label. */
export interface CreateIntent extends Intent {
  readonly label: string;
  readonly runs: number;
  /** Safe to repeat: each run has a request_id. */
  readonly repeatable: boolean;
  /** The ids of each answer. */
  readonly answers: string[][];
}

export interface CancelIntent extends Intent {
  readonly runId: string;
  readonly reason: string;
  shown: Run | undefined;
}

export interface RetryIntent extends Intent {
  readonly runId: string;
}

export interface PutIntent extends Intent {
  readonly pipeline: string;
}

/** All that was asked of the service and all that it said, to be held against the log. */
export class Books {
  readonly claims: ClaimIntent[] = [];
  readonly updates: UpdateIntent[] = [];
  readonly extensions: ExtendIntent[] = [];
  readonly creates: CreateIntent[] = [];
  readonly cancels: CancelIntent[] = [];
  readonly retries: RetryIntent[] = [];
  readonly puts: PutIntent[] = [];
  /** Runs that are known to exist, the newest last. */
  readonly knownRuns: string[] = [];
  /** What workers did to themselves, by kind. */
  readonly workerFaults = new Map<string, number>();
  /** Answers that were kept from the client, by RPC. */
  readonly swallowed = new Map<string, number>();
  /** Calls by RPC, and calls that were sent again. */
  readonly calls = new Map<string, number>();
  readonly repeats = new Map<string, number>();
  /** Errors that no client should ever see. */
  readonly internal: string[] = [];
  #number = 0;

  count(counts: Map<string, number>, what: string): void {
    counts.set(what, (counts.get(what) ?? 0) + 1);
  }

  /** A name that nothing else in this run has. */
  name(prefix: string): string {
    this.#number += 1;
    return `${prefix}-${this.#number}`;
  }
}

/** The second part of a lease token is the lease's id, which the log has as well. */
export function leaseIdOf(token: string): string {
  const hex = Buffer.from(token, 'base64url').toString('hex').slice(16);
  return [8, 12, 16, 20, 32].map((end, at, ends) => hex.slice(ends[at - 1] ?? 0, end)).join('-');
}

export function heldOf({ run, leaseToken }: Claim, place: Workplace, leaseMs: number): Held {
  if (run === undefined) throw new Error('a claim without a run');
  return {
    runId: run.id,
    token: leaseToken,
    leaseId: leaseIdOf(leaseToken),
    attempt: run.attempt,
    version: run.version,
    place,
    leaseMs,
  };
}
