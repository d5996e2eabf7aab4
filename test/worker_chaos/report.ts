import type { Faults } from '../support/chaos_faults.js';
import type { Truth } from '../support/chaos_truth.js';
import { answerOf, OK, UNKNOWN, type Answer, type Books } from './books.js';
import { SWALLOWED_RPCS } from './caller.js';
import { Comparison } from './compare.js';
import { Findings } from './findings.js';
import type { WorkerChaosOptions } from './harness.js';
import type { LeaseWatch, LogEvent } from './log.js';
import { checkLog } from './replay.js';
import { WORKER_FAULTS } from './worker.js';

export interface Material {
  readonly options: WorkerChaosOptions;
  readonly log: readonly LogEvent[];
  /** When no run was open any more, and the workers went home. */
  readonly drainedAtMs: number;
  readonly truth: Truth;
  readonly leases: LeaseWatch;
  readonly books: Books;
  readonly faults: Faults;
  readonly generations: ReadonlyMap<string, number>;
  readonly lostBytes: number;
  readonly problems: readonly string[];
}

type Counts = Readonly<Record<string, number>>;

export interface WorkerReport {
  readonly seed: number;
  readonly seconds: number;
  readonly faults: Counts;
  readonly workerFaults: Counts;
  readonly swallowed: Counts;
  /** Of those, where the change had been made. */
  readonly madeAndSwallowed: Counts;
  readonly calls: Counts;
  readonly repeats: Counts;
  readonly events: Counts;
  readonly runs: number;
  readonly claims: number;
  readonly handedBack: number;
  readonly handedBackDelivered: number;
  /** Reports by what came of them. */
  readonly reports: Counts;
  readonly lostBytes: number;
  readonly checks: Counts;
  readonly violations: Counts;
  readonly details: readonly string[];
  /** Floors that were not reached. */
  readonly missing: readonly string[];
  readonly problems: readonly string[];
}

function counted(items: Iterable<string>): Counts {
  const counts = new Map<string, number>();
  for (const item of items) counts.set(item, (counts.get(item) ?? 0) + 1);
  return sorted(counts);
}

const sorted = (counts: ReadonlyMap<string, number>): Counts =>
  Object.fromEntries([...counts].sort(([a], [b]) => (a < b ? -1 : 1)));

const meaning = (answer: Answer): string =>
  answer === OK ? 'accepted' : answer === UNKNOWN ? 'unknown' : answer;

export function buildReport(material: Material): WorkerReport {
  const { options, log, truth, leases, books, faults, generations } = material;
  const findings = new Findings();
  checkLog(log, leases, material.drainedAtMs, findings);
  const comparison = new Comparison(log, leases, books, findings);
  comparison.run();
  comparison.checkPuts(generations);
  return {
    seed: options.seed,
    seconds: Math.round(options.durationMs / 1000),
    faults: sorted(faults.counts),
    workerFaults: sorted(books.workerFaults),
    swallowed: sorted(books.swallowed),
    madeAndSwallowed: sorted(comparison.madeAndSwallowed),
    calls: sorted(books.calls),
    repeats: sorted(books.repeats),
    events: counted(log.map(({ type }) => type)),
    runs: log.filter(({ type }) => type === 'CREATED').length,
    claims: books.claims.flatMap(({ answers }) => answers.flat()).length,
    handedBack: comparison.handedBack,
    handedBackDelivered: comparison.handedBackDelivered,
    reports: counted(books.updates.map((intent) => meaning(answerOf(intent)))),
    lostBytes: material.lostBytes,
    checks: sorted(findings.checks),
    violations: sorted(findings.violations),
    details: findings.details,
    missing: missingFrom(books, options.floors),
    problems: [...material.problems, ...faults.problems, ...truth.faults.slice(0, 20)],
  };
}

/** A run with less than this proves nothing. */
export interface Floors {
  readonly runs: number;
  readonly claims: number;
  readonly accepted: number;
  readonly refused: number;
  /** Answers that were kept back, of each RPC. */
  readonly swallowed: number;
  /** Of each kind that a worker makes. */
  readonly workerFaults: number;
}

type Least = readonly (readonly [what: string, is: number, floor: number])[];

/** What the books alone tell of the floors, also while the run goes on. */
function countedInBooks(books: Books, floors: Floors): Least {
  const { accepted = 0, LEASE_LOST: lost = 0 } = counted(books.updates.map((one) => meaning(answerOf(one))));
  return [
    ['runs', books.creates.reduce((sum, { answers }) => sum + (answers[0]?.length ?? 0), 0), floors.runs],
    ['claims given out', books.claims.flatMap(({ answers }) => answers.flat()).length, floors.claims],
    ['accepted reports', accepted, floors.accepted],
    ['reports refused for a lost lease', lost, floors.refused],
    ...SWALLOWED_RPCS.map(
      (rpc) => [`swallowed answers of ${rpc}`, books.swallowed.get(rpc) ?? 0, floors.swallowed] as const,
    ),
    ...WORKER_FAULTS.map(
      (kind) => [`workers ${kind}`, books.workerFaults.get(kind) ?? 0, floors.workerFaults] as const,
    ),
  ];
}

/** What has come about too seldom so far. */
export const missingFrom = (books: Books, floors: Floors): string[] =>
  countedInBooks(books, floors).flatMap(([what, is, floor]) =>
    is < floor ? [`only ${is} ${what}; the floor is ${floor}`] : [],
  );

/** What has to have happened at all, for the checks of it to mean anything. */
const EVENTS = [
  'CANCELED',
  'CANCEL_REQUESTED',
  'FAILED',
  'LEASE_EXPIRED',
  'RELEASED',
  'RETRIED',
  'RETRY_SCHEDULED',
  'STAGE_COMPLETED',
  'SUCCEEDED',
] as const;

/** Why the run has failed; empty when it has not. */
export function failuresOf(report: WorkerReport, kinds: readonly string[]): string[] {
  const failures = Object.entries(report.violations).map(([name, count]) => `${count} times broken: ${name}`);
  const atLeast = (what: string, is: number | undefined, floor: number): void => {
    if ((is ?? 0) < floor) failures.push(`only ${is ?? 0} ${what}; the floor is ${floor}`);
  };
  for (const type of EVENTS) atLeast(`events ${type}`, report.events[type], 1);
  for (const kind of kinds) atLeast(`faults "${kind}"`, report.faults[kind], 1);
  return [...failures, ...report.missing, ...report.problems];
}

const total = (counts: Counts): number => Object.values(counts).reduce((sum, count) => sum + count, 0);

/** The report as lines for people. */
export function printReport(report: WorkerReport): string {
  const list = (counts: Counts): (readonly [string, string | number])[] =>
    Object.entries(counts).map(([name, count]) => [`  ${name}`, count] as const);
  const rows: (readonly [string, string | number])[] = [
    ['seed', report.seed],
    ['seconds of traffic and faults', report.seconds],
    ['runs', report.runs],
    ['claims given out', report.claims],
    ['events', total(report.events)],
    ...list(report.events),
    ['calls / sent again', `${total(report.calls)} / ${total(report.repeats)}`],
    ['faults of servers, database and network', total(report.faults)],
    ...list(report.faults),
    ['faults of workers', total(report.workerFaults)],
    ...list(report.workerFaults),
    ['answers swallowed / after the change was made', total(report.swallowed)],
    ...Object.entries(report.swallowed).map(
      ([rpc, count]) => [`  ${rpc}`, `${count} / ${report.madeAndSwallowed[rpc] ?? '-'}`] as const,
    ),
    ['reports', total(report.reports)],
    ...list(report.reports),
    [
      'claims handed back by servers / delivered all the same',
      `${report.handedBack} / ${report.handedBackDelivered}`,
    ],
    ['bytes lost on the way', report.lostBytes],
    ['checks', total(report.checks)],
    ...list(report.checks),
    ['violations', total(report.violations)],
    ...list(report.violations),
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}
