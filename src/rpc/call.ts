import { Code } from '@connectrpc/connect';
import type { Status } from '../../gen/google/rpc/status_pb.js';
import type { BatonError } from '../base/errors.js';
import type { Logger } from '../base/log.js';
import type { CallContext } from '../service/api.js';
import { AbortableSignal } from './call_signal.js';
import { CODE_OF_REASON, toStatus } from './errors.js';

/** How a call came in; `grpc` also on the HTTP port. */
export type Protocol = 'grpc' | 'grpc-web' | 'connect';

/** One finished call. */
export interface CallReport {
  /** `baton.v1.JobService/GetRun`. */
  readonly method: string;
  readonly protocol: Protocol;
  /** The number of the gRPC code, 0 for OK. */
  readonly code: number;
  readonly durationMs: number;
}

/** Who is told about calls. */
export interface Observer {
  readonly log: Logger;
  /** Called once per call, when its outcome is known. Must not throw. */
  readonly onCall?: ((report: CallReport) => void) | undefined;
}

/**
 * One call on its way through a transport: its signal, the race of its answer against its caller's going away, and
 * its one report.
 *
 *     running ──finish──▶ over        the signal stays silent
 *        └─────cancel───▶ over        the signal aborts, a pending `run` rejects at once
 *
 * The service sees an abort only while the call runs: the libraries also abort their own signals when a call has
 * ended well, and a service that hands back a claim on abort must not take that for a lost caller.
 */
export class ServerCall implements CallContext {
  readonly signal = new AbortableSignal();
  readonly #startMs = performance.now();
  #over = false;
  #reject: ((reason: BatonError) => void) | undefined;
  #onUndelivered: (() => void) | undefined;

  constructor(
    readonly method: string,
    readonly protocol: Protocol,
    readonly observer: Observer,
  ) {}

  onUndelivered(callback: () => void): void {
    this.#onUndelivered = callback;
  }

  /** Whether somebody wants to know what becomes of the answer. */
  get hasUndelivered(): boolean {
    return this.#onUndelivered !== undefined;
  }

  /** The answer could not be made or sent. */
  undelivered(): void {
    this.#onUndelivered?.();
  }

  /**
   * The caller has gone, or its deadline has passed: aborts the signal with this reason and ends the call. The libraries
   * also tell of this after every good end, so the reason is only made when it is needed.
   */
  cancel(why: () => BatonError): void {
    if (this.#over) return;
    const reason = why();
    this.finish(CODE_OF_REASON[reason.reason]);
    this.signal.abort(reason);
    this.#reject?.(reason);
  }

  /** The service gives up on the call. The same as a cancel: whoever is blocked for this caller goes on at once. */
  abandon(error: BatonError): void {
    this.cancel(() => error);
  }

  /**
   * Runs one step of the call. Rejects with the reason of a `cancel` as soon as there is one; what the step gives
   * after that is dropped, and what it throws is not reported, since nobody waits for it.
   */
  run<T>(step: (call: CallContext) => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.signal.aborted) return reject(this.signal.reason);
      this.#reject = reject;
      step(this).then(
        (value) => {
          // Through it, the value would be kept until the next step, which may never come.
          this.#reject = undefined;
          if (!this.signal.aborted) return resolve(value);
          this.undelivered();
          reject(this.signal.reason);
        },
        (error: unknown) => {
          // Also where the answer was there and could not be encoded.
          this.undelivered();
          reject(this.signal.reason ?? error);
        },
      );
    });
  }

  /** Reports the outcome. Only the first one counts. */
  finish(code: number): void {
    if (this.#over) return;
    this.#over = true;
    const { method, protocol } = this;
    report(this.observer, { method, protocol, code, durationMs: performance.now() - this.#startMs });
  }

  /** Reports a failure and gives the status to send for it. */
  fail(error: unknown): Status {
    const status = toStatus(error, this.observer.log);
    this.finish(status.code);
    return status;
  }
}

/** Tells the log and the metrics about a call that is over. */
export function report(observer: Observer, call: CallReport): void {
  observer.onCall?.(call);
  if (observer.log.isLevelEnabled('debug'))
    observer.log.debug({ ...call, code: Code[call.code] ?? 'Ok' }, 'call');
}
