import type { TestContext } from 'node:test';

/** What a test has started, ended in reverse when it is over; each step is tried, also after one that fails. */
export class Cleanup {
  readonly #steps: (() => Promise<unknown>)[] = [];

  constructor(t: TestContext) {
    t.after(async () => {
      const failures: unknown[] = [];
      for (const step of this.#steps.reverse()) await step().catch((error: unknown) => failures.push(error));
      if (failures.length > 0)
        throw new AggregateError(failures, `clean-up: ${failures.map(String).join('; ')}`);
    });
  }

  push(step: () => Promise<unknown>): void {
    this.#steps.push(step);
  }
}
