import type { Claim } from './run.js';
import { runBytes } from './run_size.js';

export interface SplitClaims {
  /** At least the first of those that can be given at all, however large it is. */
  readonly fitting: Claim[];
  /** From the first on that did not fit. */
  readonly left: Claim[];
  /** What no answer can hold. */
  readonly unreadable: Claim[];
}

/** Which claims one answer can hold: those in front that take `maxBytes` at most. */
export function splitClaims(claims: readonly Claim[], maxBytes: number): SplitClaims {
  const split: SplitClaims = { fitting: [], left: [], unreadable: [] };
  let bytes = 0;
  for (const claim of claims) {
    const size = claim.run.payloadOmitted ? Number.POSITIVE_INFINITY : runBytes(claim.run);
    if (size === Number.POSITIVE_INFINITY) split.unreadable.push(claim);
    else if (split.left.length > 0 || (split.fitting.length > 0 && bytes + size > maxBytes))
      split.left.push(claim);
    else {
      split.fitting.push(claim);
      bytes += size;
    }
  }
  return split;
}
