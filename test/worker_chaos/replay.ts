import type { Findings } from './findings.js';
import type { LeaseWatch, LogEvent } from './log.js';
import { pipelineOf, type PipelineSpec, type StageSpec } from './pipelines.js';

const TERMINAL = ['SUCCEEDED', 'FAILED', 'CANCELED'];

const at = (event: LogEvent): string =>
  `revision ${event.revision}, run ${event.runId} version ${event.version}, ${event.before?.status ?? ''} to ${event.status} (${event.type})`;

/**
 * Goes through the log in the order of commits and holds each change against the rules, whoever made it.
 *
 * @param drainedAtMs a run that began to wait after that is nobody's fault
 */
export function checkLog(
  log: readonly LogEvent[],
  leases: LeaseWatch,
  drainedAtMs: number,
  findings: Findings,
): void {
  for (const problem of leases.problems)
    findings.check('the lease number is the fence', false, () => problem);
  findings.checks.set('the lease number is the fence', leases.checked);
  const given = new Set<string>();
  for (const event of log) {
    checkHolder(event, given, findings);
    checkMove(event, findings);
    checkAttempt(event, findings);
    checkCancel(event, findings);
  }
  checkLimits(log, findings);
  const last = new Map(log.map((event) => [event.runId, event]));
  for (const event of last.values())
    if (event.appendMs <= drainedAtMs || (event.type !== 'CREATED' && event.type !== 'RETRIED'))
      findings.check('every run ends', TERMINAL.includes(event.state), () => at(event));
}

/** A run has one holder at most: a lease begins with a claim of a run that waited, and all is written under it. */
function checkHolder(event: LogEvent, given: Set<string>, findings: Findings): void {
  const { before, leaseId } = event;
  if (event.type === 'CLAIMED') {
    const fresh = leaseId !== undefined && !given.has(leaseId);
    if (leaseId !== undefined) given.add(leaseId);
    findings.check('one holder at most', before?.state === 'PENDING' && fresh, () => at(event));
  } else if (before?.state === 'ACTIVE') {
    findings.check(
      'one holder at most',
      leaseId === before.leaseId,
      () => `${at(event)} under lease ${leaseId}`,
    );
  } else {
    findings.check('one holder at most', leaseId === undefined && event.state !== 'ACTIVE', () => at(event));
  }
}

function placeOf(event: LogEvent): {
  pipeline: PipelineSpec;
  stage: StageSpec | undefined;
  next: StageSpec | undefined;
} {
  const pipeline = pipelineOf(event.pipeline);
  const index = pipeline.stages.findIndex(({ name }) => name === event.stage);
  return { pipeline, stage: pipeline.stages[index], next: pipeline.stages[index + 1] };
}

/** Where a run may go from where it was. */
function checkMove(event: LogEvent, findings: Findings): void {
  const { before } = event;
  const check = (holds: boolean): void =>
    findings.check('every move is one of the rules', holds, () => at(event));
  const pipeline = pipelineOf(event.pipeline);
  if (before === undefined) {
    check(event.type === 'CREATED' && event.version === 1n && event.status === pipeline.stages[0]?.waiting);
    return;
  }
  const { stage, next } = placeOf(before);
  switch (event.type) {
    case 'CLAIMED':
      return check(event.status === stage?.processing && before.status === stage.waiting);
    case 'UPDATED':
    case 'CANCEL_REQUESTED':
      return check(event.status === before.status);
    case 'STAGE_COMPLETED':
      return check(before.status === stage?.processing && event.status === next?.waiting);
    case 'SUCCEEDED':
      return check(before.status === stage?.processing && next === undefined && event.status === stage.done);
    case 'FAILED':
      return check(before.status === stage?.processing && event.status === pipeline.error);
    case 'CANCELED':
      return check(stage !== undefined && event.status === pipeline.canceled);
    case 'RELEASED':
    case 'RETRY_SCHEDULED':
    case 'LEASE_EXPIRED':
      return check(before.status === stage?.processing && event.status === stage.waiting);
    case 'RETRIED':
      return check(stage === undefined && event.state === 'PENDING');
    default:
      return check(false);
  }
}

/** A claim costs one attempt, a hand-back none, and there are never more than the definition allows. */
function checkAttempt(event: LogEvent, findings: Findings): void {
  const before = event.before?.attempt ?? 0;
  const expected: Readonly<Record<string, number>> = {
    CREATED: 0,
    CLAIMED: before + 1,
    STAGE_COMPLETED: 0,
    RETRIED: 0,
    RELEASED: before - 1,
  };
  // A hand-back that ends canceled gives its attempt back as well.
  const fits =
    event.attempt === (expected[event.type] ?? before) ||
    (event.type === 'CANCELED' && event.cancelRequested && event.attempt === before - 1);
  const name = event.type === 'RELEASED' ? 'a hand-back costs no attempt' : 'attempts are counted';
  findings.check(name, fits, () => `${at(event)}: attempt ${event.attempt} after ${before}`);
  const { stage } = placeOf(event);
  const allowed = stage === undefined ? event.attemptsAllowed : (event.ownMaxAttempts ?? stage.maxAttempts);
  findings.check(
    'attempts never exceed their maximum',
    event.attempt <= allowed && event.attemptsAllowed === allowed,
    () => `${at(event)}: attempt ${event.attempt} of ${event.attemptsAllowed}, should be ${allowed}`,
  );
  if (event.type === 'RETRY_SCHEDULED' || event.type === 'LEASE_EXPIRED')
    findings.check('no retry after the last attempt', event.attempt < allowed, () => at(event));
}

/** What was asked to be canceled while it was at work stays with its worker, and never waits again. */
function checkCancel(event: LogEvent, findings: Findings): void {
  const { before } = event;
  if (before === undefined || (!event.cancelRequested && !before.cancelRequested)) return;
  const check = (holds: boolean): void => findings.check('cancel', holds, () => at(event));
  if (before.cancelRequested && event.state === 'PENDING') return check(event.type === 'RETRIED');
  if (!before.cancelRequested && before.state === 'ACTIVE') return check(event.type === 'CANCEL_REQUESTED');
  if (!before.cancelRequested && before.state === 'PENDING') return check(event.type === 'CANCELED');
  check(event.type === 'RETRIED' || event.cancelRequested);
}

/** Counts what is ACTIVE in each stage and of each key at every revision. */
function checkLimits(log: readonly LogEvent[], findings: Findings): void {
  const active = new Map<string, number>();
  const add = (place: string, change: number): number => {
    const count = (active.get(place) ?? 0) + change;
    active.set(place, count);
    return count;
  };
  const places = (event: LogEvent): [string, string] => {
    const stage = `${event.pipeline}/${event.stage}`;
    return [stage, `${stage} of key ${event.key}`];
  };
  for (const event of log) {
    const { before } = event;
    if (before?.state === 'ACTIVE') for (const place of places(before)) add(place, -1);
    if (event.state !== 'ACTIVE') continue;
    const [all, ofKey] = places(event).map((place) => add(place, 1));
    const { stage } = placeOf(event);
    const within = (count: number | undefined, limit: number | undefined): boolean =>
      limit === undefined || limit === 0 || (count ?? 0) <= limit;
    if (stage === undefined || (stage.maxActive === 0 && stage.maxActivePerKey === 0)) continue;
    findings.check(
      'max_active is never exceeded',
      within(all, stage.maxActive),
      () => `${at(event)}: ${all} at once`,
    );
    findings.check(
      'max_active_per_key is never exceeded',
      event.key === '' || within(ofKey, stage.maxActivePerKey),
      () => `${at(event)}: ${ofKey} of ${event.key}`,
    );
  }
}
