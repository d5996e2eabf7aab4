import { changeKey, type Change } from '../run/run.js';

/** More than a server commits between two looks at the log, unless it cannot look. */
const REMEMBERED = 10_000;

/**
 * The changes after which runs wait, that this server has made and told its waiting workers itself. The log brings news of
 * them too, which then must not wake somebody else in vain. A look at the log that begins after a change was remembered
 * meets its event, or an earlier one has; so each is remembered until such a look is over, and no longer.
 */
export class OwnWork {
  readonly #keys = new Set<string>();

  /** @returns false when there is no room: the news have to come from the log */
  add(change: Change): boolean {
    if (this.#keys.size >= REMEMBERED) return false;
    this.#keys.add(changeKey(change));
    return true;
  }

  /** @param key of a change */
  has(key: string): boolean {
    return this.#keys.has(key);
  }

  /** What a look that begins now is going to meet. */
  get told(): readonly string[] {
    return [...this.#keys];
  }

  /** The look is over. */
  forget(told: readonly string[]): void {
    for (const key of told) this.#keys.delete(key);
  }
}
