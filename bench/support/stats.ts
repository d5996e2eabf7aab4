/** What one run of one system measured, by name. Units are in the names. */
export type Measures = Readonly<Record<string, number>>;

export function median(numbers: readonly number[]): number {
  return percentile(
    [...numbers].sort((a, b) => a - b),
    0.5,
  );
}

/** @param sorted ascending */
export function percentile(sorted: ArrayLike<number>, share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Of each measure the median over the runs that have it. */
export function medians(runs: readonly Measures[]): Measures {
  const keys = new Set(runs.flatMap((run) => Object.keys(run)));
  return Object.fromEntries(
    [...keys].map((key) => [key, median(runs.flatMap((run) => (run[key] === undefined ? [] : [run[key]])))]),
  );
}

/** To three digits, and to whole numbers from a hundred on. */
export function rounded(value: number): number {
  return Math.abs(value) < 100 ? Number(value.toPrecision(3)) : Math.round(value);
}
