import { fitsEvent } from '../support/chaos_canonical.js';
import { isInState, isOwed } from './filters.js';
import type { Truth, TrueEvent } from '../support/chaos_truth.js';
import type { Segment, Watcher } from './watcher.js';

export interface Findings {
  compared: number;
  losses: number;
  duplicates: number;
  reorderings: number;
  /** Events that nobody committed or that the filter should have kept back. */
  strangers: number;
  /** Events whose fields are not those of the truth. */
  differences: number;
  /** Messages that promised more than was sent. */
  brokenPromises: number;
  promises: number;
  states: number;
  /** The first few of everything, in words. */
  readonly details: string[];
}

export const newFindings = (): Findings => ({
  compared: 0,
  losses: 0,
  duplicates: 0,
  reorderings: 0,
  strangers: 0,
  differences: 0,
  brokenPromises: 0,
  promises: 0,
  states: 0,
  details: [],
});

const MAX_DETAILS = 60;

function tell(findings: Findings, detail: string): void {
  if (findings.details.length < MAX_DETAILS) findings.details.push(detail);
}

/** Compares all that a stream received with what it was owed. */
export function verifyWatcher(watcher: Watcher, truth: Truth, findings: Findings): void {
  for (const fault of watcher.faults) tell(findings, `${watcher.spec.name}: ${fault}`);
  watcher.segments.forEach((segment, index) => {
    if (segment.start === undefined) return;
    verifySegment(watcher, segment, truth, findings, `${watcher.spec.name}#${index}`);
  });
}

function verifySegment(
  watcher: Watcher,
  segment: Segment,
  truth: Truth,
  findings: Findings,
  name: string,
): void {
  const start = segment.start ?? 0n;
  const end = segment.promises.at(-1)?.revision ?? start;
  const owed = truth.events.filter(
    (event) => event.revision > start && event.revision <= end && isOwed(watcher.spec.filter, event),
  );
  for (const { asked, opened } of segment.resumed) {
    if (asked === opened) continue;
    findings.brokenPromises += 1;
    tell(findings, `${name}: resumed after ${asked}, and was opened at ${opened}`);
  }
  verifyOrder(segment, findings, name);
  verifyContent(watcher, segment, owed, findings, name);
  verifyPromises(segment, owed, findings, name);
  verifyState(watcher, segment, truth, findings, name);
}

/** Guarantee 2: revisions strictly increase, also across connections, and no (run, version) comes twice. */
function verifyOrder(segment: Segment, findings: Findings, name: string): void {
  const revisions = new Set<bigint>();
  const versions = new Set<string>();
  let last = segment.start ?? 0n;
  for (const { revision, runId, version } of segment.events) {
    const key = `${runId} ${version}`;
    if (revisions.has(revision) || versions.has(key)) {
      findings.duplicates += 1;
      tell(findings, `${name}: revision ${revision} (${key}) came twice`);
    } else if (revision <= last) {
      findings.reorderings += 1;
      tell(findings, `${name}: revision ${revision} came after ${last}`);
    }
    revisions.add(revision);
    versions.add(key);
    if (revision > last) last = revision;
  }
}

/** Guarantee 3: exactly what is owed, each event equal in every field. */
function verifyContent(
  watcher: Watcher,
  segment: Segment,
  owed: readonly TrueEvent[],
  findings: Findings,
  name: string,
): void {
  const received = new Map(segment.events.map((event) => [event.revision, event]));
  for (const event of owed) {
    const got = received.get(event.revision);
    received.delete(event.revision);
    if (got === undefined) {
      findings.losses += 1;
      tell(findings, `${name}: revision ${event.revision} was lost: ${event.text.bare}`);
      continue;
    }
    findings.compared += 1;
    const { bare, payload } = event.text;
    const should = watcher.spec.payload === true ? bare + payload : bare;
    if (got.text === should) continue;
    findings.differences += 1;
    tell(findings, `${name}: revision ${event.revision}\n   is     ${got.text}\n   should ${should}`);
  }
  for (const revision of received.keys()) {
    findings.strangers += 1;
    tell(findings, `${name}: revision ${revision} was not owed`);
  }
}

/** Guarantee 7: a message at R means that everything owed up to R was sent. */
function verifyPromises(
  segment: Segment,
  owed: readonly TrueEvent[],
  findings: Findings,
  name: string,
): void {
  let index = 0;
  let last = segment.start ?? 0n;
  for (const { revision, events } of segment.promises) {
    findings.promises += 1;
    while (index < owed.length && (owed[index]?.revision ?? 0n) <= revision) index += 1;
    if (events !== index || revision < last) {
      findings.brokenPromises += 1;
      tell(
        findings,
        `${name}: at ${revision} (after ${last}) ${events} of ${index} owed events had been sent`,
      );
    }
    last = revision;
  }
}

/** Guarantee 8: the state is that of its revision, run by run. */
function verifyState(
  watcher: Watcher,
  segment: Segment,
  truth: Truth,
  findings: Findings,
  name: string,
): void {
  if (segment.state === undefined) return;
  findings.states += 1;
  const latest = new Map<string, TrueEvent>();
  for (const event of truth.events) {
    if (event.revision > (segment.start ?? 0n)) break;
    latest.set(event.runId, event);
  }
  let should = 0;
  for (const [runId, event] of latest) {
    if (!isInState(watcher.spec.filter, event)) continue;
    should += 1;
    const text = event.text.bare.slice(event.text.bare.indexOf(']') + 1);
    if (fitsEvent(segment.state.get(runId), text)) continue;
    findings.differences += 1;
    tell(
      findings,
      `${name}: state of ${runId} at ${segment.start}\n   is     ${segment.state.get(runId)}\n   should ${text}`,
    );
  }
  if (should !== segment.state.size) {
    findings.differences += 1;
    tell(findings, `${name}: the state had ${segment.state.size} runs, should be ${should}`);
  }
}
