/** Room that is given out in the order of who came; whoever wants more than all of it gets it alone. */
export class Room {
  #used = 0;
  readonly #waiting: { readonly size: number; readonly enter: () => void }[] = [];

  /** @param mostMs how long one keeps others out, at most; for as long as it takes when absent */
  constructor(
    private readonly size: number,
    private readonly mostMs?: number,
  ) {}

  /**
   * @param size 0 for what needs none
   * @param work may give its room back before it ends
   */
  async use<T>(size: number, work: (free: () => void) => Promise<T>): Promise<T> {
    let held = size;
    if (size > 0) await new Promise<void>((enter) => this.#enter(size, enter));
    const free = (): void => {
      this.#used -= held;
      held = 0;
      this.#next();
    };
    const late = this.mostMs === undefined || size === 0 ? undefined : setTimeout(free, this.mostMs).unref();
    try {
      return await work(free);
    } finally {
      clearTimeout(late);
      free();
    }
  }

  #enter(size: number, enter: () => void): void {
    this.#waiting.push({ size, enter });
    this.#next();
  }

  #next(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      if (this.#used > 0 && this.#used + first.size > this.size) return;
      this.#waiting.shift();
      this.#used += first.size;
      first.enter();
    }
  }
}
