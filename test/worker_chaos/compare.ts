import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import {
  answerOf,
  OK,
  UNKNOWN,
  type Books,
  type CancelIntent,
  type ClaimIntent,
  type CreateIntent,
  type ExtendIntent,
  type Held,
  type Purpose,
  type Send,
  type UpdateIntent,
} from './books.js';
import type { Findings } from './findings.js';
import type { LeaseWatch, LogEvent } from './log.js';
import { group, LogIndex } from './log_index.js';

/** Times of the client and of the database are one clock, read by two programs. */
const CLOCK_SLACK_MS = 5;
/** After so long an answer that was kept back is no longer on its way through the server. */
const SETTLED_MS = 300;

/** Holds all that was asked and answered against what was committed. */
export class Comparison {
  readonly #books: Books;
  readonly #leases: LeaseWatch;
  readonly #findings: Findings;
  readonly #log: LogIndex;
  /** Answers that were kept back after the change had been made. */
  readonly madeAndSwallowed = new Map<string, number>();
  /** Claims that a server handed back, and those of them that had reached their worker all the same. */
  handedBack = 0;
  handedBackDelivered = 0;
  /** Reports that a server's hand-back had made true before. */
  takenBackBefore = 0;

  constructor(log: readonly LogEvent[], leases: LeaseWatch, books: Books, findings: Findings) {
    this.#books = books;
    this.#leases = leases;
    this.#findings = findings;
    this.#log = new LogIndex(log);
  }

  run(): void {
    const { claims, updates, extensions, creates, cancels, internal } = this.#books;
    for (const leaseId of this.#log.byLease.keys())
      if (this.#log.wasHandedBack(leaseId)) this.handedBack += 1;
    for (const intent of creates) this.#checkCreate(intent);
    for (const intent of claims) this.#checkClaim(intent);
    for (const intent of updates) this.#checkUpdate(intent);
    for (const intent of extensions) this.#checkExtension(intent);
    for (const intent of cancels) this.#checkCancel(intent);
    this.#checkRetries();
    this.#findings.check('no internal error', internal.length === 0, () => internal.slice(0, 5).join('; '));
  }

  /** @param generations of the pipelines in the end, each put once before the run */
  checkPuts(generations: ReadonlyMap<string, number>): void {
    for (const [pipeline, generation] of generations) {
      const intents = this.#books.puts.filter((intent) => intent.pipeline === pipeline);
      const least = intents.filter((intent) => answerOf(intent) === OK).length;
      const most = intents.reduce((sum, { sends }) => sum + sends.length, 0);
      const puts = generation - 1;
      this.#findings.check(
        'every acknowledged PutPipeline was made',
        least <= puts && puts <= most,
        () => `${pipeline} was put ${puts} times; ${least} were acknowledged of ${most} sent`,
      );
    }
  }

  #noteSwallowed(rpc: string, sends: readonly Send[], made: readonly LogEvent[]): void {
    const kept = sends.filter(({ swallowed, answer }) => swallowed && answer === UNKNOWN);
    if (!kept.some(({ at, endedAt }) => made.some(({ appendMs }) => appendMs >= at && appendMs <= endedAt)))
      return;
    this.madeAndSwallowed.set(rpc, (this.madeAndSwallowed.get(rpc) ?? 0) + 1);
  }

  #checkShown(shown: Run | undefined): void {
    if (shown === undefined) return;
    const event = this.#log.byVersion.get(`${shown.id} ${shown.version}`);
    this.#findings.check(
      'an answer shows a run as it was committed',
      event?.status === shown.status && event.attempt === shown.attempt && event.stage === shown.stage,
      () => `run ${shown.id} version ${shown.version} was shown in ${shown.status}, attempt ${shown.attempt}`,
    );
  }

  /** Each acknowledged creation is there once, whatever was repeated; of the others all runs are there or none. */
  #checkCreate({ label, runs, sends, answers }: CreateIntent): void {
    const made = this.#log.createdBy.get(label) ?? [];
    this.#noteSwallowed(runs === 1 ? 'CreateRun' : 'BatchCreateRuns', sends, made);
    const acknowledged = sends.some(({ answer }) => answer === OK);
    const doubtful = sends.some(({ answer }) => answer === UNKNOWN);
    const holds = made.length === runs ? acknowledged || doubtful : made.length === 0 && !acknowledged;
    this.#findings.check(
      'every acknowledged run was created exactly once',
      holds,
      () => `${label}: ${made.length} of ${runs} runs, answers ${sends.map(({ answer }) => answer).join()}`,
    );
    const byId = new Map(made.map((event) => [event.runId, event]));
    for (const ids of answers) {
      const inOrder = ids.every((id, n) => ['', `${label}/${n}`].includes(byId.get(id)?.requestId ?? 'none'));
      this.#findings.check(
        'a repeated creation gives the same runs',
        ids.length === runs && new Set(ids).size === runs && inOrder,
        () => `${label}: ${ids.join()} where ${made.map(({ runId }) => runId).join()} were created`,
      );
    }
  }

  #checkClaim(intent: ClaimIntent): void {
    const made = this.#log.claimsBy.get(intent.workerId) ?? [];
    this.#noteSwallowed('ClaimNext', intent.sends, made);
    for (const held of intent.answers.flat()) this.#checkHeld(intent, held);
    for (const answer of intent.answers)
      this.#findings.check(
        'a claim gives no more than was asked',
        answer.length <= intent.maxRuns,
        () => `${intent.workerId} got ${answer.length} of ${intent.maxRuns}`,
      );
    if (intent.requestId !== '') this.#checkRemembered(intent, made);
  }

  #checkHeld({ workerId }: ClaimIntent, held: Held): void {
    const [claimed] = this.#log.byLease.get(held.leaseId) ?? [];
    const shown = this.#log.byVersion.get(`${held.runId} ${held.version}`);
    if (this.#log.wasHandedBack(held.leaseId)) this.handedBackDelivered += 1;
    this.#findings.check(
      'every claim given out is in the history',
      claimed?.type === 'CLAIMED' &&
        claimed.runId === held.runId &&
        claimed.workerId === workerId &&
        claimed.attempt === held.attempt &&
        shown?.leaseId === held.leaseId &&
        held.version >= claimed.version,
      () => `lease ${held.leaseId} of run ${held.runId}, given to ${workerId}`,
    );
  }

  /** While claims of a request_id live, its repetition gives them and no others. */
  #checkRemembered({ requestId, sends, answers }: ClaimIntent, made: readonly LogEvent[]): void {
    const repeat = sends.at(-1);
    const given = answers.at(-1);
    if (repeat === undefined || sends.length < 2 || given === undefined) return;
    const alive = made.filter((event) => {
      const leaseId = event.leaseId ?? '';
      const end = this.#log.endOf(leaseId);
      const expireMs = this.#leases.expiries.get(leaseId)?.[0] ?? 0;
      return (
        event.appendMs + SETTLED_MS < repeat.at &&
        (end === undefined || end.appendMs > repeat.endedAt) &&
        expireMs > repeat.endedAt + CLOCK_SLACK_MS
      );
    });
    for (const { runId, leaseId } of alive)
      this.#findings.check(
        'a repeated claim gives what is still held',
        given.some((held) => held.leaseId === leaseId),
        () => `${requestId} holds run ${runId} and got ${given.map((held) => held.runId).join()}`,
      );
    // What is held is of the first call then, which claims once: all that came later is of the second.
    if (alive.length === 0 || sends.length !== 2) return;
    const anew = made.filter(({ appendMs }) => appendMs >= repeat.at);
    this.#findings.check(
      'a repeated claim takes no more while something is held',
      anew.length === 0,
      () => `${requestId} took ${anew.map(({ runId }) => runId).join()} as well`,
    );
  }

  #checkUpdate(intent: UpdateIntent): void {
    const { marker, runId, leaseId, purpose, sends, next } = intent;
    const made = this.#log.byMarker.get(marker) ?? [];
    const answer = answerOf(intent);
    this.#noteSwallowed(purpose === 'extend' ? 'ExtendLeases' : 'UpdateStatus', sends, made);
    const say = (): string =>
      `${marker} (${purpose} of run ${runId} under lease ${leaseId}) was answered ${sends.map((send) => send.answer).join()} and made ${made.map(({ revision, type }) => `${type} at ${revision}`).join()}`;
    for (const event of made) {
      const expireMs = this.#leases.expiryBefore.get(`${event.runId} ${event.version}`) ?? 0;
      const inTime = (sends[0]?.at ?? 0) <= expireMs + CLOCK_SLACK_MS;
      this.#findings.check(
        'nothing is accepted from a stale token',
        event.runId === runId && event.leaseId === leaseId && inTime,
        () => `${say()} under lease ${event.leaseId}`,
      );
      this.#findings.check('a report does what its status says', fits(purpose, event), say);
    }
    const doubtful = sends.filter((send) => send.answer === UNKNOWN).length;
    // News of the work may be written once for each time that they were sent.
    const most = intent.isNews ? doubtful + (answer === OK ? 1 : 0) : 1;
    // What a server has handed back meanwhile has come to what was reported.
    const madeBefore =
      made.length === 0 &&
      this.#log.wasHandedBack(leaseId) &&
      ['release', 'cancel', 'done'].includes(purpose);
    if (answer === OK && madeBefore) this.takenBackBefore += 1;
    else if (answer === OK)
      this.#findings.check(
        'every acknowledged report is in the history once',
        made.length >= 1 && made.length <= most,
        say,
      );
    else if (answer === UNKNOWN)
      this.#findings.check('a report is made once at most', made.length <= most, say);
    else this.#findings.check('a refused report changes nothing', made.length === 0 || intent.isNews, say);
    if (answer === 'LEASE_LOST')
      this.#findings.check(
        'a lease that is told lost is lost',
        this.#isOver(leaseId, sends.at(-1)?.endedAt ?? 0),
        say,
      );
    this.#checkShown(intent.shown);
    if (next !== undefined) this.#checkNext(intent, next, made, answer, say);
  }

  /** The lease has ended, or its time was over, when that was said. */
  #isOver(leaseId: string, atMs: number): boolean {
    const end = this.#log.endOf(leaseId);
    const expireMs = this.#leases.expiries.get(leaseId)?.at(-1) ?? 0;
    return expireMs <= atMs + CLOCK_SLACK_MS || (end !== undefined && end.appendMs <= atMs + CLOCK_SLACK_MS);
  }

  /** The update and its claim are one transaction. */
  #checkNext(
    { sends }: UpdateIntent,
    next: ClaimIntent,
    made: readonly LogEvent[],
    answer: string,
    say: () => string,
  ): void {
    const claims = this.#log.claimsBy.get(next.workerId) ?? [];
    const name = 'an update and its claim_next are one transaction';
    if (answer !== OK && answer !== UNKNOWN) this.#findings.check(name, claims.length === 0, say);
    const alone = sends.length === 1 && next.waitMs === 0 && answer === OK;
    if (alone)
      this.#findings.check(
        name,
        claims.every(({ xid }) => xid === made[0]?.xid),
        say,
      );
  }

  #checkExtension({ leaseId, bounded, outcome, sends }: ExtendIntent): void {
    if (outcome === undefined) return;
    const expiries = this.#leases.expiries.get(leaseId) ?? [];
    const say = (): string =>
      `lease ${leaseId} was told ${outcome.lost ? 'lost' : outcome.expireMs}, it had ${expiries.join()}`;
    const last = sends.at(-1);
    if (outcome.lost) {
      this.#findings.check(
        'a lease that is told lost is lost',
        this.#isOver(leaseId, last?.endedAt ?? 0),
        say,
      );
      return;
    }
    const index = expiries.indexOf(outcome.expireMs);
    this.#findings.check('every acknowledged extension was made', index >= 0, say);
    // Sent after the time that the lease had until then.
    const before = expiries[index - 1];
    if (bounded || sends.length > 1) return;
    const late = before !== undefined && (last?.at ?? 0) > before + CLOCK_SLACK_MS;
    this.#findings.check('no lease is extended after its end', !late, say);
  }

  /**
   * A run that somebody retries may have to be canceled again, or waits again when the call has ended; a copy of the call
   * that was stuck on its way may cancel it once more.
   */
  #checkCancel({ runId, reason, sends, shown }: CancelIntent): void {
    const made = this.#log.byMarker.get(reason) ?? [];
    this.#noteSwallowed('CancelRun', sends, made);
    const from = sends[0]?.at ?? 0;
    const retried = (this.#log.byRun.get(runId) ?? []).filter(
      ({ type, appendMs }) => type === 'RETRIED' && appendMs >= from,
    ).length;
    const stopped = shown === undefined || shown.cancelRequested || shown.state === RunState.CANCELED;
    this.#findings.check(
      'an acknowledged cancel is in the history',
      made.every((event) => event.runId === runId) &&
        made.length <= Math.min(1 + retried, sends.length) &&
        (stopped || retried > 0),
      () => `${reason} of run ${runId} made ${made.length}, and showed ${shown?.status ?? 'nothing'}`,
    );
    this.#checkShown(shown);
  }

  #checkRetries(): void {
    for (const [runId, intents] of group(this.#books.retries, (intent) => intent.runId)) {
      const made = (this.#log.byRun.get(runId) ?? []).filter(({ type }) => type === 'RETRIED');
      const least = intents.filter((intent) => answerOf(intent) === OK).length;
      const most = intents.reduce((sum, { sends }) => sum + sends.length, 0);
      for (const { sends } of intents) this.#noteSwallowed('RetryRun', sends, made);
      this.#findings.check(
        'every acknowledged retry was made',
        made.length >= least && made.length <= most,
        () => `run ${runId} was retried ${made.length} times; ${least} were acknowledged of ${most} sent`,
      );
    }
  }
}

/** The change that a report of this purpose makes; a run whose cancel was asked for does not wait again. */
function fits(purpose: Purpose, event: LogEvent): boolean {
  const canceled = event.type === 'CANCELED' && event.cancelRequested;
  const lastAttempt = event.attempt >= event.attemptsAllowed || event.cancelRequested;
  switch (purpose) {
    case 'done':
      return event.type === 'STAGE_COMPLETED' || event.type === 'SUCCEEDED' || canceled;
    case 'retry':
      return event.type === 'RETRY_SCHEDULED' || (event.type === 'FAILED' && lastAttempt);
    case 'fail':
      return event.type === 'FAILED';
    case 'cancel':
      return event.type === 'CANCELED';
    case 'release':
      return event.type === 'RELEASED' || canceled;
    case 'progress':
    case 'extend':
      return event.type === 'UPDATED';
    case 'illegal':
      return false;
    case 'stale':
      return true;
    default:
      return purpose satisfies never;
  }
}
