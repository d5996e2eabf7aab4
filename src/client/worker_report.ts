import type { JsonObject, MessageInitShape } from '@bufbuild/protobuf';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import type {
  UpdateErrorSchema,
  UpdateStatusRequestSchema,
  UpdateStatusResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import type { WorkerCalls } from './worker_calls.js';
import { pause, retryAfterMs, workerClock, type Latch } from './worker_clock.js';
import { callFailure, type CallFailure } from './worker_errors.js';
import { callTimeoutMs } from './worker_lease.js';
import type { News } from './worker_news.js';
import { failed, type Reported } from './worker_outcome.js';
import type { Claimed, HeldRun } from './worker_run.js';
import type { StageDefinition, StageRules } from './worker_stage.js';
import type { Ticket } from './worker_ticket.js';
import type { WorkerErrorContext } from './worker_types.js';

type Refusal = Extract<CallFailure, { kind: 'refused' }>;

/** What became of the claim that went with a report. */
export type NextClaim =
  | { readonly kind: 'answered'; readonly claimed: readonly Claimed[] }
  /** Runs may have been claimed with the ticket: it has to be redeemed. */
  | { readonly kind: 'unknown'; readonly ticket: Ticket };

const NOTHING: NextClaim = { kind: 'answered', claimed: [] };

/** What is to be sent, after as much of it as the server refuses has been left out. */
interface Report {
  readonly outcome: Reported;
  readonly withNews: boolean;
  readonly ticket: Ticket | undefined;
  /** What was refused so far; each is tried once. */
  readonly refusals: ReadonlySet<'status' | 'news' | 'outcome' | 'failure'>;
}

export interface ReporterOptions {
  readonly calls: WorkerCalls;
  readonly stage: StageDefinition;
  readonly onError: (error: Error, context: WorkerErrorContext) => void;
  /** The worker ends: what could not be reported stays so. */
  readonly givenUp: Latch;
}

/**
 * Reports how the work on runs has ended, and claims the next run in the same call. A report is repeated until it is
 * answered or the lease is over, which the server makes harmless. What a server refuses is left out, so that the run
 * shows at least that its worker has something to say which cannot be said.
 */
export class Reporter {
  readonly #options: ReporterOptions;

  constructor(options: ReporterOptions) {
    this.#options = options;
  }

  /** Never rejects. @param ticket to claim with, if any */
  async report(held: HeldRun, outcome: Reported, ticket: Ticket | undefined): Promise<NextClaim> {
    const { givenUp } = this.#options;
    const giveUpMs = workerClock.now() + held.lease.durationMs;
    const news = held.mail.take();
    let report: Report | undefined = { outcome, withNews: true, ticket, refusals: new Set() };
    let failures = 0;
    while (report !== undefined && !givenUp.isSet) {
      try {
        const { claims } = await this.#send(held, report, report.withNews ? news : {});
        if (report.withNews) held.mail.arrived();
        return { kind: 'answered', claimed: report.ticket?.redeem(claims) ?? [] };
      } catch (cause) {
        const failure = callFailure(cause);
        this.#options.onError(failure.error, { during: 'report', runId: held.run.id });
        if (failure.kind === 'refused') {
          report = await this.#without(failure, report);
          continue;
        }
        failures += 1;
        const delayMs = retryAfterMs(failures, failure.delayMs, held.lease.durationMs / 8);
        if (workerClock.now() + delayMs > giveUpMs) break;
        await pause(delayMs, givenUp);
      }
    }
    return report?.ticket === undefined ? NOTHING : { kind: 'unknown', ticket: report.ticket };
  }

  #send(held: HeldRun, { outcome, ticket }: Report, news: News): Promise<UpdateStatusResponse> {
    const { calls, stage } = this.#options;
    const request: MessageInitShape<typeof UpdateStatusRequestSchema> = {
      runId: held.run.id,
      leaseToken: held.leaseToken,
      ...news,
      ...fieldsOf(outcome, stage.rules),
      // It must not wait: the answer tells that the report is durable.
      ...(ticket !== undefined && { claimNext: ticket.send(0) }),
    };
    return calls.updateStatus(request, callTimeoutMs(held.lease.durationMs));
  }

  /** What is left to be reported after a refusal; nothing when the lease is lost, or nothing else can be said. */
  async #without(refusal: Refusal, report: Report): Promise<Report | undefined> {
    const { fields, reason, error } = refusal;
    const { refusals } = report;
    if (reason === 'STATUS_NOT_ALLOWED' && !refusals.has('status') && (await this.#learn()))
      return { ...report, refusals: new Set([...refusals, 'status']) };
    if (reason === 'PIPELINE_NOT_FOUND' || reason === 'STAGE_NOT_FOUND')
      return report.ticket && { ...report, ticket: undefined };
    if (reason !== 'INVALID_ARGUMENT' && reason !== 'STATUS_NOT_ALLOWED') return undefined;
    if (report.withNews && fields.length > 0 && fields.every(isNews))
      return { ...report, withNews: false, refusals: new Set([...refusals, 'news']) };
    if (refusals.has('failure')) return undefined;
    // First what is wrong, in the server's words; then, should these be the trouble, that something is.
    const last = refusals.has('outcome');
    const why = last ? 'the report of its worker was refused' : error.rawMessage;
    return {
      outcome: failed('REPORT_REFUSED', why, false),
      withNews: false,
      ticket: last ? undefined : report.ticket,
      refusals: new Set([...refusals, last ? 'failure' : 'outcome']),
    };
  }

  /** Fetches the words of the stage anew. */
  async #learn(): Promise<boolean> {
    try {
      await this.#options.stage.load();
      return true;
    } catch (cause) {
      this.#options.onError(callFailure(cause).error, { during: 'definition' });
      return false;
    }
  }
}

function isNews(field: string): boolean {
  return /^(progress|status_message|checkpoint)\b/.test(field);
}

interface OutcomeFields {
  readonly status: string;
  readonly output?: JsonObject;
  readonly error?: MessageInitShape<typeof UpdateErrorSchema>;
}

function fieldsOf(outcome: Reported, rules: StageRules): OutcomeFields {
  switch (outcome.kind) {
    case 'done':
      return { status: rules.doneStatus, ...(outcome.output && { output: outcome.output }) };
    case 'canceled':
      return { status: rules.canceledStatus };
    case 'handed_back':
      return { status: rules.waitingStatus };
    case 'failed': {
      const { code, message, retryable, retryDelayMs } = outcome.failure;
      const retryDelay = retryDelayMs === undefined ? {} : { retryDelay: durationFromMs(retryDelayMs) };
      return {
        status: rules.errorStatus,
        error: { code, message, retryable, ...retryDelay },
        ...(outcome.output && { output: outcome.output }),
      };
    }
  }
}
