import { LIMITS } from '../base/limits.js';
import { WorkerCalls } from './worker_calls.js';
import { ClaimLoop } from './worker_claims.js';
import { atMost, Latch, pause, retryAfterMs } from './worker_clock.js';
import { callFailure, RunAborted } from './worker_errors.js';
import type { Outcome } from './worker_outcome.js';
import { Renewals } from './worker_renewals.js';
import { Reporter } from './worker_report.js';
import { HeldRun, type Claimed } from './worker_run.js';
import { StageDefinition } from './worker_stage.js';
import { Ticket, type ClaimTarget } from './worker_ticket.js';
import type { Worker, WorkerErrorContext, WorkerOptions } from './worker_types.js';

const STOP_GRACE_MS = 20_000;
const ABORT_GRACE_MS = 5000;
/** How long a worker that stops tries to say so to a server that cannot be reached. */
const LAST_WORDS_MS = 10_000;
/** How long the slot of a run that its handler has handed back stays empty, half of it random. */
const HAND_BACK_REST_MS = 2000;
/** Less than this part of a lease is not enough to begin with, before a renewal has said how much is left. */
const CERTAIN_PART = 0.5;

/**
 * Works on the runs of one stage: claims them, calls the handler for each, keeps their leases and reports how they
 * ended. It goes on through lost connections and restarts of servers until it is stopped, and reports its troubles to
 * `onError`.
 *
 *     const builds = worker({
 *       baseUrl: 'http://127.0.0.1:50051',
 *       stage: 'run',
 *       concurrency: 4,
 *       handler: async (run, { signal }) => ({ log: await build(run.input, signal) }),
 *     });
 *     process.once('SIGTERM', () => void builds.stop());
 *
 * A run is worked on by one handler at a time, and at least once: a handler that is told to stop, and one whose process
 * dies, may leave effects behind that the next attempt meets.
 *
 * @throws RangeError for a number that is out of its range
 */
export function worker(options: WorkerOptions): Worker {
  return new StageWorker(options);
}

class StageWorker implements Worker {
  readonly workerId: string;
  readonly closed: Promise<void>;
  readonly #options: WorkerOptions;
  readonly #calls: WorkerCalls;
  readonly #stage: StageDefinition;
  readonly #target: ClaimTarget;
  readonly #claims: ClaimLoop;
  readonly #renewals: Renewals;
  readonly #renewing: Promise<void>;
  readonly #reporter: Reporter;
  readonly #stopping = new Latch();
  readonly #givenUp = new Latch();
  readonly #held = new Set<HeldRun>();
  /** Everything that is under way, but for the renewals. None of them rejects. */
  readonly #tasks = new Set<Promise<void>>();
  #stopped: Promise<void> | undefined;
  #resolveClosed: () => void = () => undefined;

  constructor(options: WorkerOptions) {
    const { pipeline = 'ci', stage, concurrency = 1, leaseDurationMs } = options;
    inRange('concurrency', concurrency, 1, LIMITS.claimRuns);
    if (leaseDurationMs !== undefined)
      inRange('leaseDurationMs', leaseDurationMs, LIMITS.leaseMinMs, LIMITS.leaseMaxMs);
    this.#options = options;
    this.workerId = options.workerId ?? defaultWorkerId();
    this.closed = new Promise((resolve) => (this.#resolveClosed = resolve));
    this.#calls = new WorkerCalls(options);
    this.#stage = new StageDefinition(this.#calls, pipeline, stage);
    this.#target = { pipeline, stage, workerId: this.workerId, leaseDurationMs };
    const shared = { calls: this.#calls, stage: this.#stage, givenUp: this.#givenUp };
    const onError = (error: Error, context: WorkerErrorContext): void => this.#tell(error, context);
    this.#renewals = new Renewals(this.#calls, onError);
    this.#reporter = new Reporter({ ...shared, onError });
    this.#claims = new ClaimLoop({
      ...shared,
      onError,
      target: this.#target,
      slots: concurrency,
      stopping: this.#stopping,
      onClaims: (claimed) => this.#take(claimed),
    });
    this.#track(this.#run());
    this.#renewing = this.#renewals.run();
  }

  get active(): number {
    return this.#held.size;
  }

  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #run(): Promise<void> {
    const stopping = this.#stopping;
    for (let failures = 1; !stopping.isSet; failures += 1) {
      try {
        await this.#stage.load();
        break;
      } catch (cause) {
        const failure = callFailure(cause);
        this.#tell(failure.error, { during: 'definition' });
        await pause(retryAfterMs(failures, failure.kind === 'again' ? failure.delayMs : 0), stopping);
      }
    }
    await this.#claims.run();
  }

  #take(claimed: readonly Claimed[]): void {
    for (const each of claimed) this.#track(this.#work(each));
  }

  /** One run, from its claim until its end is reported; then the run that came with the report takes its slot. */
  async #work(claimed: Claimed): Promise<void> {
    const { timeoutMs } = this.#stage.rules;
    const held = new HeldRun(claimed, timeoutMs, this.#options.handler, () => this.#renewals.ring());
    this.#held.add(held);
    const outcome = await this.#perform(held, claimed.isFresh);
    const isStopping = this.#stopping.isSet;
    const ticket = isStopping || outcome.kind === 'handed_back' ? undefined : new Ticket(this.#target, 1);
    if (outcome.kind === 'lost') {
      this.#tell(new RunAborted('lease_lost'), { during: 'renewal', runId: held.run.id });
      held.mail.close(new RunAborted('lease_lost'));
      this.#held.delete(held);
      this.#claims.release(1);
      return;
    }
    const next = await this.#reporter.report(held, outcome, ticket);
    held.mail.close(new RunAborted('lease_lost'));
    this.#held.delete(held);
    if (next.kind === 'unknown') return this.#claims.redeem(next.ticket, false);
    if (outcome.kind === 'handed_back')
      await pause((HAND_BACK_REST_MS / 2) * (1 + Math.random()), this.#stopping);
    if (next.claimed.length === 0) this.#claims.release(1);
    this.#take(next.claimed);
  }

  async #perform(held: HeldRun, isFresh: boolean): Promise<Outcome> {
    if (this.#stopping.isSet) return { kind: 'handed_back' };
    this.#renewals.add(held);
    const { durationMs, endMs } = held.lease;
    if (isFresh && endMs - performance.now() > durationMs * CERTAIN_PART) held.confirm();
    const outcome = await held.outcome;
    this.#renewals.remove(held);
    return outcome;
  }

  async #stop(): Promise<void> {
    const { stopGraceMs = STOP_GRACE_MS, abortGraceMs = ABORT_GRACE_MS } = this.#options;
    this.#stopping.set();
    for (const held of this.#held) if (held.isConfirming) held.abort('stopping');
    await atMost(this.#idle(), stopGraceMs);
    for (const held of this.#held) held.abort('stopping');
    await atMost(this.#idle(), abortGraceMs);
    for (const held of this.#held) held.abandon();
    await atMost(this.#idle(), LAST_WORDS_MS);
    this.#givenUp.set();
    this.#calls.close();
    await this.#idle();
    this.#renewals.stop();
    await this.#renewing;
    this.#resolveClosed();
  }

  /** Waits until nothing is under way. */
  async #idle(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.all(this.#tasks);
  }

  #track(task: Promise<void>): void {
    // What is thrown here is a mistake of the worker itself; it must not end the process of its user.
    const guarded = task
      .catch((error: unknown) => this.#tell(callFailure(error).error, { during: 'report' }))
      .finally(() => this.#tasks.delete(guarded));
    this.#tasks.add(guarded);
  }

  #tell(error: Error, context: WorkerErrorContext): void {
    if (this.#givenUp.isSet) return;
    const { onError = writeLine } = this.#options;
    try {
      onError(error, context);
    } catch {
      // A logger that fails must not stop the work.
    }
  }
}

function inRange(name: string, value: number, min: number, max: number): void {
  if (!Number.isInteger(value) || value < min || value > max)
    throw new RangeError(`${name} must be an integer from ${min} to ${max}, is ${value}`);
}

/** Asked for like this, a browser, which has neither, needs no replacement for a module of Node. */
function defaultWorkerId(): string {
  const own = globalThis.crypto.randomUUID().slice(0, 8);
  const process = globalThis.process as NodeJS.Process | undefined;
  const os = process?.getBuiltinModule?.('node:os');
  return os === undefined ? `worker-${own}` : `${os.hostname().slice(0, 90)}-${process?.pid}-${own}`;
}

function writeLine(error: Error, { during, runId }: WorkerErrorContext): void {
  const run = runId === undefined ? '' : ` of run ${runId}`;
  process.stderr.write(`baton worker: ${during}${run}: ${error.message}\n`);
}
