/**
 * One reading for all who ask at the same time. At most one is under way; who asks meanwhile shares the next one, so that
 * nobody is given what was read before the question.
 */
export class SharedRead<T> {
  readonly #read: () => Promise<T>;
  #running: Promise<T> | undefined;
  #next: Promise<T> | undefined;

  constructor(read: () => Promise<T>) {
    this.#read = read;
  }

  /** @throws what the reading throws, to all who share it */
  get(): Promise<T> {
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        // A call that came in this very moment has begun one, which is as new for those who wait.
        return this.#running ?? this.#start();
      });
    return this.#next;
  }

  #start(): Promise<T> {
    const reading = this.#read().finally(() => {
      this.#running = undefined;
    });
    this.#running = reading;
    return reading;
  }
}
