import { invalidArgument, type FieldViolation } from '../../base/errors.js';

/**
 * Collects what is wrong with a request while it is converted, so that the caller is told everything at once. Paths
 * use the names of the `.proto`: `requests[3].schedule_time`. Only what the domain types cannot hold is found here;
 * the rules about values are the service's.
 */
export class Violations {
  readonly #found: FieldViolation[] = [];

  add(field: string, description: string): void {
    this.#found.push({ field, description });
  }

  /** Throws INVALID_ARGUMENT with all that was found, if anything was. */
  throwIfAny(): void {
    if (this.#found.length > 0) throw invalidArgument(this.#found);
  }
}

/** Converts a request, and throws INVALID_ARGUMENT with all violations if it has any. */
export function converting<T>(convert: (violations: Violations) => T): T {
  const violations = new Violations();
  const value = convert(violations);
  violations.throwIfAny();
  return value;
}

/** The path of a field inside another: `claim_next` and `wait` give `claim_next.wait`. */
export function at(path: string, field: string): string {
  return path === '' ? field : `${path}.${field}`;
}
