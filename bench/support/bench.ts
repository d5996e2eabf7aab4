import type { Cluster } from './cluster.js';
import { medians, type Measures } from './stats.js';

/** What a benchmark is given. */
export interface Context {
  readonly cluster: Cluster;
  /** Prove that everything runs, in seconds; the numbers mean nothing. */
  readonly smoke: boolean;
  /** Repetitions of which the median is taken. */
  readonly runs: number;
  /** The benchmark's own options, by name; those that it does not define are refused. */
  readonly option: (name: string) => number;
  /** Whether a flag of its own was given. */
  readonly flag: (name: string) => boolean;
  /** A text of its own; '' where it was not given. */
  readonly text: (name: string) => string;
  /** Options of node for the servers, such as those of its profiler. */
  readonly serverArgv: readonly string[];
  /** Says on standard error what is being done. */
  readonly progress: (text: string) => void;
}

export interface Goal {
  readonly text: string;
  readonly value: number;
  readonly atLeast?: number;
  readonly atMost?: number;
}

export interface Report {
  /** By the row's name, what each repetition measured. */
  readonly rows: Readonly<Record<string, readonly Measures[]>>;
  readonly ratios: Readonly<Record<string, number>>;
  readonly goals: readonly Goal[];
  /** What one has to know to read the numbers. */
  readonly notes: readonly string[];
}

export interface Bench {
  /** Names of numbers that may be set, with the value for a full run and that for `--smoke`. */
  readonly options: Readonly<Record<string, { readonly full: number; readonly smoke: number }>>;
  readonly flags?: readonly string[];
  /** Names of texts that may be given. */
  readonly texts?: readonly string[];
  /** Repetitions where nothing else is asked for; default 3. */
  readonly runs?: number;
  /** Settings of PostgreSQL beyond its defaults. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly run: (context: Context) => Promise<Report>;
}

/** Rows of one turn of one system. */
export type Turn = () => Promise<Readonly<Record<string, Measures>>>;

/** Measures system after system, and then all again: A B C A B C, so that what changes in time meets all alike. */
export async function inTurns(
  { runs, progress }: Context,
  systems: Readonly<Record<string, Turn>>,
): Promise<Record<string, Measures[]>> {
  const rows: Record<string, Measures[]> = {};
  for (let run = 1; run <= runs; run += 1) {
    for (const [name, turn] of Object.entries(systems)) {
      progress(`run ${run} of ${runs}: ${name}`);
      for (const [row, measures] of Object.entries(await turn())) (rows[row] ??= []).push(measures);
    }
  }
  return rows;
}

/** The median of one measure of a row; a row or measure that is not there is a mistake in the benchmark. */
export function valueOf(rows: Report['rows'], row: string, measure: string): number {
  const value = medians(rows[row] ?? [])[measure];
  if (value === undefined) throw new Error(`row ${row} has no ${measure}`);
  return value;
}

export function isMet({ value, atLeast = -Infinity, atMost = Infinity }: Goal): boolean {
  return value >= atLeast && value <= atMost;
}
