/** A run that could be claimed, and the key that its stage counts it under; '' is not limited by key. */
export interface Candidate {
  readonly id: string;
  readonly key: string;
}

/** How many runs a stage may still take, all in all and for each key. Infinity where there is no limit. */
export class Room {
  #total: number;
  readonly #perKey: number;
  readonly #active: Map<string, number>;

  /** @param active how many runs are ACTIVE in the stage now, by key */
  constructor(total: number, perKey: number, active: ReadonlyMap<string, number>) {
    this.#total = total;
    this.#perKey = perKey;
    this.#active = new Map(active);
  }

  get isFull(): boolean {
    return this.#total <= 0;
  }

  /** Takes what fits of the candidates, in their order, up to `most`. */
  take(candidates: readonly Candidate[], most: number): string[] {
    const taken: string[] = [];
    for (const { id, key } of candidates) {
      if (taken.length >= most || this.isFull) break;
      const active = this.#active.get(key) ?? 0;
      if (key !== '' && active >= this.#perKey) continue;
      this.#active.set(key, active + 1);
      this.#total -= 1;
      taken.push(id);
    }
    return taken;
  }
}
