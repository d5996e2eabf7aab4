/** What was started, ended in reverse whatever happens. */
export class Cleanup {
  readonly #steps: (() => Promise<unknown> | void)[] = [];
  readonly #lastSteps: (() => void)[] = [];
  readonly #onSignal = (): void => process.exit(130);
  readonly #onExit = (): void => {
    for (const step of this.#lastSteps.reverse()) step();
  };

  constructor() {
    process.once('SIGINT', this.#onSignal).once('SIGTERM', this.#onSignal).once('exit', this.#onExit);
  }

  /** @param atOnce the same for a process that ends now and can wait for nothing */
  add(step: () => Promise<unknown> | void, atOnce?: () => void): void {
    this.#steps.push(step);
    if (atOnce !== undefined) this.#lastSteps.push(atOnce);
  }

  async run(): Promise<void> {
    process.off('SIGINT', this.#onSignal).off('SIGTERM', this.#onSignal).off('exit', this.#onExit);
    for (const step of this.#steps.reverse()) await Promise.resolve(step()).catch(() => undefined);
  }
}
