/** What was checked, how often, and what did not hold. */
export class Findings {
  readonly checks = new Map<string, number>();
  readonly violations = new Map<string, number>();
  /** The first few in words. */
  readonly details: string[] = [];
  readonly #maxDetails = 60;

  /** @param name of the promise; `detail` says how it was broken */
  check(name: string, holds: boolean, detail: () => string): void {
    this.checks.set(name, (this.checks.get(name) ?? 0) + 1);
    if (holds) return;
    this.violations.set(name, (this.violations.get(name) ?? 0) + 1);
    if (this.details.length < this.#maxDetails) this.details.push(`${name}: ${detail()}`);
  }

  get total(): number {
    return [...this.violations.values()].reduce((sum, count) => sum + count, 0);
  }
}
