import { Violations } from '../../base/violations.js';
import { Checks } from '../../service/validate.js';

/** How the service judges a request by itself. */
export type Check<T> = (found: Checks, request: T) => void;

/**
 * Converts a request. Throws INVALID_ARGUMENT if it cannot be converted as a whole, with all that is wrong with it: the
 * service's own check has the rest to say, since the request does not get there.
 */
export function converting<T>(convert: (violations: Violations) => T, check?: Check<T>): T {
  const violations = new Violations();
  const value = convert(violations);
  if (violations.any && check !== undefined) {
    violations.leaveOut();
    check(new Checks('', violations), value);
  }
  violations.throwIfAny();
  return value;
}
