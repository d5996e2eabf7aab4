import type { Transport } from '@connectrpc/connect';
import type { Run } from '../../gen/baton/v1/run_pb.js';

/** Where the worker finds its server: an address, or a transport of one's own. */
export type WorkerServer =
  | {
      /** The address of a server, `http://127.0.0.1:50051` (gRPC; in Node only). Connections that have died are left. */
      readonly baseUrl: string | URL;
      readonly transport?: never;
    }
  | {
      /** A transport of Connect. It has to find out by itself that its connection has died (`pingIntervalMs`). */
      readonly transport: Transport;
      readonly baseUrl?: never;
    };

export type WorkerOptions = WorkerServer & WorkerSettings;

export interface WorkerSettings {
  /** The pipeline whose runs are worked on. Default: `ci`. */
  readonly pipeline?: string;
  /** The stage whose work the handler does. */
  readonly stage: string;
  /** Does the work of one run. */
  readonly handler: RunHandler;
  /** How many runs are worked on at once, 1 to 1000. Default: 1. No more are claimed than can be started. */
  readonly concurrency?: number;
  /** Who works, for people to read; at most 128 characters. Default: made of the host's name and the process. */
  readonly workerId?: string;
  /** How long a lease lasts, 1000 to 86400000 ms; it is renewed after each third. Default: what the stage says. */
  readonly leaseDurationMs?: number;
  /** How long `stop` lets handlers finish before it aborts them. Default: 20000. */
  readonly stopGraceMs?: number;
  /** How long a handler that `stop` has aborted may take to end. Then its run is handed back anyway. Default: 5000. */
  readonly abortGraceMs?: number;
  /** Sent with every call. */
  readonly headers?: Readonly<Record<string, string>>;
  /** Told of the worker's own troubles, each of which it goes on from. Default: a line on standard error. */
  readonly onError?: (error: Error, context: WorkerErrorContext) => void;
}

/** What the worker was doing when something went wrong. */
export interface WorkerErrorContext {
  readonly during: 'definition' | 'claim' | 'renewal' | 'report';
  /** Where it is about one run. */
  readonly runId?: string;
}

/**
 * Does the work of one run. What it returns becomes the run's output (nothing leaves the output as it is), and the run
 * goes on to the next stage. What it throws becomes the run's error: to be tried again while attempts are left, unless
 * it is a `FinalFailure`, `RetryLater` or `HandBack`. The numbers of an output are doubles: a bigint and an integer beyond
 * 2^53 are refused, and have to be strings.
 */
export type RunHandler = (run: Run, context: RunContext) => unknown;

/** What a handler needs beside the run. `run.checkpoint` is what the attempt before has left, if any. */
export interface RunContext {
  /**
   * Fires when the handler has to stop; its reason is a `RunAborted` that says why. What the handler returns or throws
   * after that is not reported.
   */
  readonly signal: AbortSignal;
  /**
   * Shows how far the work is, from 0 to 1, and what is happening (at most 1024 characters, longer ones are cut). Sent
   * with the next renewal of the lease, or at once; what came in between is passed over.
   */
  readonly progress: (fraction: number, message?: string, options?: { readonly atOnce?: boolean }) => void;
  /**
   * Keeps what the next attempt of this stage should know: a JSON object of at most 64 KiB, which replaces the one
   * before, with integers beyond 2^53 as strings. It is durable when the promise resolves.
   *
   * @throws TypeError when it is no such object
   * @throws RunAborted when the run was lost or ended before
   */
  readonly checkpoint: (state: object) => Promise<void>;
}

/** A worker at work. */
export interface Worker {
  readonly workerId: string;
  /** Runs that it holds now. */
  readonly active: number;
  /**
   * Claims no more, lets handlers finish for `stopGraceMs`, aborts the others and hands back what is left, which costs
   * no attempt. Resolves when nothing of the worker is left; safe to call again.
   */
  stop(): Promise<void>;
  /** Resolves when the worker was stopped and nothing of it is left; never rejects. */
  readonly closed: Promise<void>;
}
