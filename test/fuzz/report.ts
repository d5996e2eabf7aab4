import type { Finding } from './findings.js';
import type { FuzzOptions } from './harness.js';

export interface Report {
  readonly options: FuzzOptions;
  readonly seconds: number;
  readonly sent: number;
  readonly findings: readonly Finding[];
  /** Of the healthy clients, the database and the server's end. */
  readonly problems: readonly string[];
  readonly outcomes: ReadonlyMap<string, ReadonlyMap<string, number>>;
  readonly stopMs: number;
  readonly witness: { readonly runs: number; readonly times: readonly number[]; readonly events: number };
}

export interface Bounds {
  /** Of the healthy worker's calls. */
  readonly p99Ms: number;
  readonly stopMs: number;
}

/** As the contract has it; tests beside others on one machine allow ten times as much. */
export const BOUNDS: Bounds = { p99Ms: 250, stopMs: 10_000 };

export function percentileOf(times: readonly number[], share: number): number {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Why a run has failed, with the commands that repeat each fault alone; nothing after a good one. */
export function failuresOf(report: Report, bounds: Bounds): string[] {
  const { seed } = report.options;
  const p99 = percentileOf(report.witness.times, 0.99);
  const failures = report.findings.map(({ problem, what, count, numbers, input }) => {
    const repeats = numbers.map((number) => `npm run fuzz -- --seed ${seed} --first ${number} --inputs 1`);
    return `${count} × ${problem}: ${what}\n    ${repeats.join('\n    ')}\n    ${input}`;
  });
  failures.push(...report.problems);
  if (!(p99 <= bounds.p99Ms)) failures.push(`the healthy worker's p99 is ${p99.toFixed(0)} ms`);
  if (!(report.stopMs <= bounds.stopMs))
    failures.push(`the server took ${report.stopMs.toFixed(0)} ms to stop`);
  return failures;
}

/** What an honest run has met: each method answered well and badly, and nearly all that was made could be sent. */
export function gapsOf({ outcomes }: Report, methods: readonly string[]): string[] {
  return methods.flatMap((method) => {
    const met = outcomes.get(method);
    // A stream that goes on is left in the end.
    const good = ['OK', 'left after 200'].some((outcome) => met?.has(outcome));
    const bad = met?.has('InvalidArgument') === true;
    return [good ? '' : 'well', bad ? '' : 'with InvalidArgument']
      .filter((missing) => missing !== '')
      .map((missing) => `no ${method} was answered ${missing}`);
  });
}

export function printReport({ options, seconds, sent, outcomes, witness, stopMs }: Report): string {
  const rows = [...outcomes]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([method, met]) => {
      const counts = [...met].sort(([, a], [, b]) => b - a).map(([outcome, count]) => `${outcome} ${count}`);
      return `  ${method}: ${counts.join(', ')}`;
    });
  const ms = (share: number): string => percentileOf(witness.times, share).toFixed(0);
  return [
    `${sent} inputs in ${seconds.toFixed(0)} s, seed ${options.seed}, from ${options.first}`,
    ...rows,
    `healthy worker: ${witness.runs} runs, calls p50 ${ms(0.5)} ms, p99 ${ms(0.99)} ms, longest ${ms(1)} ms`,
    `watchers: ${witness.events} events as in the log; stopped in ${stopMs.toFixed(0)} ms`,
  ].join('\n');
}
