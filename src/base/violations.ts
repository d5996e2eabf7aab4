import { invalidArgument, type BatonError, type FieldViolation } from './errors.js';
import { LIMITS } from './limits.js';
import { truncate } from './text.js';

/** A field's path, or what makes it: that of a violation which is only counted is never put together. */
export type FieldPath = string | (() => string);

/** The path of a field inside another: `claim_next` and `wait` give `claim_next.wait`. */
export function at(path: string, field: string): string {
  return path === '' ? field : `${path}.${field}`;
}

/**
 * What is wrong with one request, so that its caller learns of everything at once: the first `LIMITS.violations`, and how
 * many more there are. A request may hold millions of wrong values, so that nothing grows with their number or length.
 */
class Found {
  readonly kept: FieldViolation[] = [];
  /** How many there are beside those kept. */
  omitted = 0;
  /** Fields that were left out of what is judged now, see `Violations.leaveOut`. */
  leftOut: readonly string[] = [];

  add(path: FieldPath, description: string): void {
    if (this.leftOut.length === 0 && this.kept.length >= LIMITS.violations) {
      this.omitted += 1;
      return;
    }
    const field = truncate(typeof path === 'string' ? path : path(), LIMITS.violationFieldChars);
    if (this.leftOut.some((known) => isWithin(known, field))) return;
    if (this.kept.length >= LIMITS.violations) this.omitted += 1;
    else this.kept.push({ field, description: truncate(description, LIMITS.violationChars) });
  }
}

/** Whether a path is a field or one inside of it. */
function isWithin(path: string, field: string): boolean {
  return path === field || path.startsWith(`${field}.`) || path.startsWith(`${field}[`);
}

/**
 * Collects the violations of a request. Paths are in the names of the `.proto`: `requests[3].schedule_time`. Whoever
 * knows rules about values extends it, see `service/validate.ts`.
 */
export class Violations {
  readonly #found: Found;
  readonly #prefix: string;

  /** @param parent shares what it finds; without one the collector begins anew */
  constructor(prefix = '', parent?: Violations) {
    this.#prefix = prefix;
    this.#found = parent === undefined ? new Found() : parent.#found;
  }

  protected get prefix(): string {
    return this.#prefix;
  }

  get any(): boolean {
    return this.#found.kept.length > 0;
  }

  add(field: FieldPath, description: string): void {
    if (this.#prefix === '') this.#found.add(field, description);
    else this.#found.add(() => this.#prefix + (typeof field === 'string' ? field : field()), description);
  }

  /** From now on, says nothing of the fields that were found by now, nor of those that have them inside. */
  leaveOut(): void {
    this.#found.leftOut = this.#found.kept.map(({ field }) => field);
  }

  /** INVALID_ARGUMENT with what was found. */
  error(): BatonError {
    return invalidArgument(this.#found.kept, this.#found.omitted);
  }

  /** @throws BatonError INVALID_ARGUMENT with what was found, if anything was */
  throwIfAny(): void {
    if (this.any) throw this.error();
  }
}
