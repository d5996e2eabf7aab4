import type { Clock, Timer } from './clock.js';
import { LIMITS } from './limits.js';

interface Kind<Note> {
  lines: number;
  suppressed: number;
  /** Of the last line that was written. */
  note: Note;
}

/** All kinds beyond `LIMITS.logKinds` in one window count as one. */
const OTHERS = 'others';

/**
 * Bounds how many lines of each kind are written, so that a fault that comes with every call fills neither a disk nor the
 * time of the server. Time is cut into windows: the first lines of a kind are written, the others counted, and at the end
 * of the window one summary says how many they were.
 */
export class LineLimit<Note> {
  readonly #clock: Clock;
  readonly #summarize: (suppressed: number, note: Note) => void;
  readonly #kinds = new Map<string, Kind<Note>>();
  #windowEnd = Number.NEGATIVE_INFINITY;
  #timer: Timer | undefined;

  constructor(clock: Clock, summarize: (suppressed: number, note: Note) => void) {
    this.#clock = clock;
    this.#summarize = summarize;
  }

  /**
   * Asks whether a line may be written.
   *
   * @param note kept with the line if it may
   * @returns this note if it may, else that of the last line of its kind, which stands for this one too
   */
  admit(name: string, note: Note): Note {
    const now = this.#clock.now();
    if (now >= this.#windowEnd) {
      this.flush();
      this.#windowEnd = now + LIMITS.logWindowMs;
    }
    const key = this.#kinds.has(name) || this.#kinds.size < LIMITS.logKinds ? name : OTHERS;
    const kind = this.#kinds.get(key);
    if (kind === undefined) {
      this.#kinds.set(key, { lines: 1, suppressed: 0, note });
      return note;
    }
    if (kind.lines < LIMITS.logLines) {
      kind.lines += 1;
      kind.note = note;
      return note;
    }
    kind.suppressed += 1;
    this.#timer ??= this.#clock.after(this.#windowEnd - now, () => this.flush());
    return kind.note;
  }

  /** Writes the summaries and begins a new window. */
  flush(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#windowEnd = Number.NEGATIVE_INFINITY;
    const kinds = [...this.#kinds.values()];
    this.#kinds.clear();
    for (const { suppressed, note } of kinds) if (suppressed > 0) this.#summarize(suppressed, note);
  }
}
