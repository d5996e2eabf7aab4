import { invalidArgument, type FieldViolation } from '../../base/errors.js';
import { Violations as ServiceViolations } from '../../service/validate.js';

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

  get any(): boolean {
    return this.#found.length > 0;
  }

  /** Adds what the service finds, but not of fields that were left out, nor of those that have them inside. */
  addOthers(others: readonly FieldViolation[]): void {
    const known = this.#found.map(({ field }) => field);
    const isNew = ({ field }: FieldViolation): boolean =>
      !known.some((path) => path === field || path.startsWith(`${field}.`) || path.startsWith(`${field}[`));
    this.#found.push(...others.filter(isNew));
  }

  /** Throws INVALID_ARGUMENT with all that was found, if anything was. */
  throwIfAny(): void {
    if (this.any) throw invalidArgument(this.#found);
  }
}

/** How the service judges a request by itself. */
export type Check<T> = (found: ServiceViolations, request: T) => void;

/**
 * Converts a request. Throws INVALID_ARGUMENT if it cannot be converted as a whole, with all that is wrong with it: the
 * service's own check has the rest to say, since the request does not get there.
 */
export function converting<T>(convert: (violations: Violations) => T, check?: Check<T>): T {
  const violations = new Violations();
  const value = convert(violations);
  if (violations.any && check !== undefined) {
    const found = new ServiceViolations();
    check(found, value);
    violations.addOthers(found.error().violations);
  }
  violations.throwIfAny();
  return value;
}

/** The path of a field inside another: `claim_next` and `wait` give `claim_next.wait`. */
export function at(path: string, field: string): string {
  return path === '' ? field : `${path}.${field}`;
}
