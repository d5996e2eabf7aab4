import type { ChaosOptions } from './harness.js';
import type { StreamFaults } from './faults.js';
import type { FaultProxy } from '../support/chaos_proxy.js';
import type { ChaosServer } from '../support/chaos_servers.js';
import { isOwed } from './filters.js';
import type { Truth } from '../support/chaos_truth.js';
import { newFindings, verifyWatcher, type Findings } from './verify.js';
import type { Watcher } from './watcher.js';
import type { WriterCounts } from './writers.js';

export interface Material {
  readonly options: ChaosOptions;
  readonly truth: Truth;
  readonly watchers: readonly Watcher[];
  readonly faults: StreamFaults;
  readonly counts: WriterCounts;
  readonly servers: readonly ChaosServer[];
  readonly memory: readonly number[];
  readonly problems: readonly string[];
  readonly opened: number;
}

export interface Latency {
  readonly samples: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export interface ChaosReport {
  readonly seed: number;
  readonly seconds: number;
  readonly faults: Readonly<Record<string, number>>;
  readonly commits: number;
  readonly events: number;
  readonly writers: WriterCounts;
  readonly streams: number;
  readonly segments: number;
  readonly messages: number;
  readonly bookmarks: number;
  readonly resumes: number;
  readonly gapsTold: number;
  readonly findings: Findings;
  /** From just before the commit to the client, while nothing was broken. */
  readonly latency: { readonly listening: Latency; readonly polling: Latency };
  readonly slowestOpenMs: number;
  readonly residentMiB: readonly number[];
  readonly truncations: { readonly told: number; readonly complete: number };
  readonly stalls: readonly { shared: boolean; events: number; longestSilenceMs: number; grewMiB: number }[];
  readonly openTransactions: number;
  readonly notificationsDropped: number;
  readonly lostBytes: number;
  /** Everything else that was not as promised. */
  readonly problems: readonly string[];
}

export function buildReport(material: Material): ChaosReport {
  const { options, truth, watchers, faults, counts, memory } = material;
  const findings = newFindings();
  for (const watcher of watchers) verifyWatcher(watcher, truth, findings);
  verifyTruncations(faults, truth, findings);
  const problems = [...material.problems, ...faults.problems, ...truth.faults.slice(0, 20)];
  for (const watcher of watchers)
    problems.push(...watcher.faults.map((fault) => `${watcher.spec.name}: ${fault}`));
  const sum = (of: (watcher: Watcher) => number): number => watchers.reduce((all, one) => all + of(one), 0);
  return {
    seed: options.seed,
    seconds: Math.round(options.durationMs / 1000),
    faults: Object.fromEntries([...faults.counts].sort(([a], [b]) => (a < b ? -1 : 1))),
    commits: truth.commits,
    events: truth.events.length,
    writers: counts,
    streams: watchers.length,
    segments: sum((watcher) => watcher.segments.length),
    messages: sum((watcher) => watcher.messages),
    bookmarks: sum((watcher) => watcher.bookmarks),
    resumes: sum((watcher) => watcher.resumes),
    gapsTold: sum((watcher) => watcher.tooOld),
    findings,
    latency: { listening: measureLatency(material, true), polling: measureLatency(material, false) },
    slowestOpenMs: Math.round(Math.max(...watchers.map((watcher) => watcher.slowestOpenMs))),
    residentMiB: memory,
    truncations: {
      told: faults.truncations.filter(({ reason }) => reason === 'RESUME_TOKEN_TOO_OLD').length,
      complete: faults.truncations.filter(({ reason }) => reason === '').length,
    },
    stalls: faults.stalls.map((stall) => ({
      shared: stall.shared,
      events: stall.healthyEvents,
      longestSilenceMs: stall.longestSilenceMs,
      grewMiB: stall.residentAfterMiB - stall.residentBeforeMiB,
    })),
    openTransactions: material.opened,
    notificationsDropped: sumOf(material, (proxy) => proxy.notificationsDropped),
    lostBytes: sumOf(material, (proxy) => proxy.lostBytes),
    problems,
  };
}

function sumOf({ servers }: Material, of: (proxy: FaultProxy) => number): number {
  return servers.flatMap(({ proxies }) => proxies).reduce((sum, proxy) => sum + of(proxy), 0);
}

/** A stream under which history was dropped: what it got up to its last message has to be whole. */
function verifyTruncations(faults: StreamFaults, truth: Truth, findings: Findings): void {
  for (const { start, end, revisions, reason } of faults.truncations) {
    const owed = truth.events.filter(
      (event) => event.revision > start && event.revision <= end && isOwed({}, event),
    );
    const got = new Set(revisions);
    const lost = owed.filter((event) => !got.has(event.revision)).length;
    findings.losses += lost;
    findings.compared += owed.length - lost;
    if (lost > 0)
      findings.details.push(
        `a truncated stream from ${start} to ${end} lost ${lost} (it ended with ${reason})`,
      );
  }
}

/** From just before the commit to the client, in times and on streams that no fault touched. */
function measureLatency({ truth, watchers, faults }: Material, listening: boolean): Latency {
  const appendedAt = new Map(truth.events.map((event) => [event.revision, event.appendedAt]));
  const samples: number[] = [];
  for (const { spec, segments } of watchers) {
    if (spec.slow === true || spec.withState === true) continue;
    for (const segment of segments) {
      let index = 0;
      for (const place of segment.promises) {
        const { events, at } = place;
        for (; index < events; index += 1) {
          const from = appendedAt.get(segment.events[index]?.revision ?? -1n);
          if (place.listening === listening && from !== undefined && faults.wasCalm(from, at))
            samples.push(at - from);
        }
      }
    }
  }
  samples.sort((a, b) => a - b);
  const at = (share: number): number =>
    samples[Math.min(samples.length - 1, Math.floor(samples.length * share))] ?? 0;
  return { samples: samples.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: samples.at(-1) ?? 0 };
}

/** A run with less than this proves nothing. */
export interface Floors {
  readonly events: number;
  readonly commits: number;
  readonly compared: number;
  readonly resumes: number;
  readonly bookmarks: number;
}

/** Why the run has failed; empty when it has not. */
export function failuresOf(report: ChaosReport, floors: Floors, kinds: readonly string[]): string[] {
  const { findings } = report;
  const failures: string[] = [];
  for (const key of [
    'losses',
    'duplicates',
    'reorderings',
    'strangers',
    'differences',
    'brokenPromises',
  ] as const) {
    if (findings[key] > 0) failures.push(`${findings[key]} ${key}`);
  }
  const traffic = { ...report, compared: findings.compared };
  for (const key of ['events', 'commits', 'compared', 'resumes', 'bookmarks'] as const) {
    if (traffic[key] < floors[key]) failures.push(`only ${traffic[key]} ${key}; the floor is ${floors[key]}`);
  }
  for (const kind of kinds)
    if ((report.faults[kind] ?? 0) === 0) failures.push(`the fault "${kind}" was not made`);
  if (report.notificationsDropped === 0) failures.push('no notification was dropped');
  if (report.lostBytes === 0) failures.push('no connection lost a byte');
  return [...failures, ...report.problems];
}

const latencyText = ({ p50Ms, p99Ms, maxMs, samples }: Latency): string =>
  `${p50Ms} / ${p99Ms} / ${maxMs} (${samples} events)`;

/** The report as lines for people. */
export function printReport(report: ChaosReport): string {
  const { findings, latency, writers } = report;
  const faultTotal = Object.values(report.faults).reduce((sum, count) => sum + count, 0);
  const worst = (shared: boolean): string => {
    const of = report.stalls.filter((stall) => stall.shared === shared);
    const silence = Math.max(0, ...of.map((stall) => stall.longestSilenceMs));
    return `${of.length} times; the stream beside it: ${of.reduce((sum, stall) => sum + stall.events, 0)} events, longest silence ${silence} ms`;
  };
  const rows: (readonly [string, string | number])[] = [
    ['seed', report.seed],
    ['seconds of traffic and faults', report.seconds],
    ...Object.entries(report.faults).map(([kind, count]) => [`  ${kind}`, count] as const),
    ['faults injected', faultTotal],
    ['open transactions, begun again', report.openTransactions],
    ['notifications dropped, bytes lost', `${report.notificationsDropped}, ${report.lostBytes}`],
    ['commits', report.commits],
    ['events in the true order', report.events],
    ['calls answered / failed', `${writers.calls} / ${writers.failedCalls}`],
    [
      'SQL commits / rollbacks / broken',
      `${writers.commits} / ${writers.rollbacks} / ${writers.brokenTransactions}`,
    ],
    ['streams / resumes / gaps told', `${report.streams} / ${report.resumes} / ${report.gapsTold}`],
    ['messages / bookmarks', `${report.messages} / ${report.bookmarks}`],
    ['states compared', findings.states],
    ['promised places checked', findings.promises],
    ['events compared', findings.compared],
    ['losses', findings.losses],
    ['duplicates', findings.duplicates],
    ['reorderings', findings.reorderings],
    ['events not owed', findings.strangers],
    ['events that differ', findings.differences],
    ['broken promises', findings.brokenPromises],
    ['truncated catch-ups: told / complete', `${report.truncations.told} / ${report.truncations.complete}`],
    ['stalled on their own connection', worst(false)],
    ['stalled on a shared connection', worst(true)],
    ['calm latency p50 / p99 / max, ms', latencyText(latency.listening)],
    ['the same where nothing is listened to', latencyText(latency.polling)],
    ['slowest OPENED while calm, ms', report.slowestOpenMs],
    ['memory of the servers, MiB', report.residentMiB.join(' / ')],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`).join('\n');
}
