import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { splitClaims } from '../run/claim_split.js';
import { PAYLOAD_UNREADABLE } from '../run/lease_end.js';
import type { Claim } from '../run/run.js';
import { unreadableFields } from '../run/run_size.js';
import { decodeLeaseToken, type LeaseKey } from '../store/lease_token.js';
import type { Pool } from '../store/pool.js';
import { failClaims } from '../store/sql/fail_claims.js';
import { readPayloads } from '../store/sql/read_payloads.js';
import { releaseClaims } from '../store/sql/release_claims.js';

/**
 * What becomes of claims between their commit and their answer.
 *
 *   1. The statement has given small payloads with the claims, and preselected by what the others take as stored.
 *   2. The others are read, for each answer as many as it may hold.
 *   3. All are measured as they will be encoded. What does not fit is released, from the first on that does not.
 *   4. A run whose payload cannot be sent to anybody is failed: it would be claimed again and again otherwise.
 *
 * What cannot be released or failed now is so when its lease ends.
 */
export class ClaimAnswers {
  readonly #pool: Pool;
  readonly #log: Logger;

  constructor(pool: Pool, log: Logger) {
    this.#pool = pool;
    this.#log = log;
  }

  /**
   * @param claims that were just made and committed, for each answer
   * @returns what each answer holds of them
   * @throws what reading the payloads throws; all claims are released then
   */
  async complete(claims: readonly (readonly Claim[])[]): Promise<readonly (readonly Claim[])[]> {
    let split;
    try {
      split = (await this.#withPayloads(claims)).map(({ read, unread }) => {
        const { fitting, left, unreadable } = splitClaims(read, LIMITS.answerBytes);
        return { fitting, left: [...left, ...unread], unreadable };
      });
    } catch (error) {
      await this.release(claims.flat(), true);
      throw error;
    }
    const left = split.flatMap((one) => one.left);
    const unreadable = split.flatMap((one) => one.unreadable);
    if (left.length > 0) await this.release(left, true);
    if (unreadable.length > 0) await this.#fail(unreadable);
    return split.map((one) => one.fitting);
  }

  /** Reads what the claims do not have yet. For what follows the last payload that was read there is no room. */
  async #withPayloads(
    claims: readonly (readonly Claim[])[],
  ): Promise<{ readonly read: readonly Claim[]; readonly unread: readonly Claim[] }[]> {
    const missing = claims.flatMap((list, answer) =>
      list.flatMap(({ run }) => (run.payloadOmitted ? [{ id: run.id, answer }] : [])),
    );
    if (missing.length === 0) return claims.map((read) => ({ read, unread: [] }));
    const payloads = await readPayloads(
      this.#pool,
      missing.map(({ id }) => id),
      missing.map(({ answer }) => answer),
    );
    return claims.map((list) => {
      const end = list.findIndex(({ run }) => run.payloadOmitted && !payloads.has(run.id));
      const count = end < 0 ? list.length : end;
      const read = list.slice(0, count).map((claim) => {
        const payload = payloads.get(claim.run.id);
        return payload === undefined
          ? claim
          : { ...claim, run: { ...claim.run, ...payload, payloadOmitted: false } };
      });
      return { read, unread: list.slice(count) };
    });
  }

  /**
   * Gives runs back whose claim reached nobody; it costs them no attempt.
   *
   * @param repeatedToo see `releaseClaims`
   */
  async release(claims: readonly Claim[], repeatedToo = false): Promise<void> {
    const leases = claims.flatMap((claim) => leaseOf(claim) ?? []);
    try {
      await releaseClaims(this.#pool, leases, repeatedToo);
    } catch (error) {
      this.#log.warn({ err: error, runs: leases.length }, 'claims could not be released');
    }
  }

  async #fail(claims: readonly Claim[]): Promise<void> {
    const failed = claims.flatMap((claim) => {
      const lease = leaseOf(claim);
      return lease === undefined ? [] : [{ ...lease, message: whyUnreadable(claim) }];
    });
    for (const { runId, message } of failed)
      this.#log.error({ run_id: runId, code: PAYLOAD_UNREADABLE, reason: message }, 'a run was failed');
    try {
      await failClaims(this.#pool, failed, PAYLOAD_UNREADABLE);
    } catch (error) {
      this.#log.warn({ err: error, runs: failed.length }, 'runs that cannot be sent could not be failed');
    }
  }
}

function leaseOf({ run, leaseToken }: Claim): { runId: string; lease: LeaseKey } | undefined {
  const lease = decodeLeaseToken(leaseToken);
  return lease === undefined ? undefined : { runId: run.id, lease };
}

function whyUnreadable({ run }: Claim): string {
  const fields = unreadableFields(run);
  return fields.length === 0
    ? `the payload is longer than ${LIMITS.payloadTextBytes} bytes as JSON`
    : `${fields.join(', ')} cannot be sent: nested more than ${LIMITS.jsonDepth} deep`;
}
