/** One number of a metric. */
export interface Sample {
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** What a metric is at this moment: one number, one for each set of labels, or undefined where it cannot be known. */
export type Reading = number | readonly Sample[] | undefined;

/**
 * A number that a part of the server offers for watching over it, without knowing who watches or how: it counts with
 * plain fields, and these are read when somebody asks.
 */
export interface Metric {
  /** As Prometheus wants it: with its unit last, and `_total` for a counter. */
  readonly name: string;
  readonly help: string;
  /** A counter only grows while the process lives; a gauge goes both ways. */
  readonly type: 'gauge' | 'counter';
  /** The labels that every sample has. Their values come from closed lists, so that there are never many samples. */
  readonly labels: readonly string[];
  /** What takes time has a limit of its own; the rest of the metrics wait for it. */
  read(): Reading | Promise<Reading>;
}

/** Counts by a label. The values that are named at the start are there from the start, with 0. */
export class Tally<Value extends string> {
  readonly #counts = new Map<Value, number>();

  constructor(values: readonly Value[]) {
    for (const value of values) this.#counts.set(value, 0);
  }

  add(value: Value): void {
    this.#counts.set(value, (this.#counts.get(value) ?? 0) + 1);
  }

  samples(label: string): Sample[] {
    return [...this.#counts].map(([value, count]) => ({ labels: { [label]: value }, value: count }));
  }
}
