import { BatonError, invalidArgument } from '../base/errors.js';
import { openToken, sealToken } from '../base/sealed_token.js';
import type { LogHead } from '../store/sql/read_head.js';

/** A place in one log: everything up to and with `revision` has been seen. */
export interface ResumePoint {
  readonly epoch: string;
  readonly revision: bigint;
}

const PURPOSE = 'resume';
/** 16 of epoch and 8 of revision. */
const CONTENT_BYTES = 24;

/** The opaque text of a point. */
export function encodeResumeToken(point: ResumePoint): string {
  const bytes = Buffer.alloc(CONTENT_BYTES);
  bytes.write(point.epoch.replaceAll('-', ''), 0, 'hex');
  bytes.writeBigInt64BE(point.revision, 16);
  return sealToken(PURPOSE, bytes);
}

/** @throws BatonError INVALID_ARGUMENT for a text that is no token of this service */
export function decodeResumeToken(token: string): ResumePoint {
  const bytes = openToken(PURPOSE, token);
  if (bytes?.length !== CONTENT_BYTES || bytes.readBigInt64BE(16) < 0n) {
    throw invalidArgument([{ field: 'after', description: 'is not a resume token of this service' }]);
  }
  const hex = bytes.toString('hex', 0, 16);
  const epoch = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join(
    '-',
  );
  return { epoch, revision: bytes.readBigInt64BE(16) };
}

/** The field `after` that asks for all kept history. */
export const OLDEST = 'oldest';

/** Whether the field `after` names a place by a token. */
export const isToken = (after: string): boolean => after !== '' && after !== OLDEST;

/**
 * The revision after which a stream starts.
 *
 * @throws BatonError INVALID_ARGUMENT for a malformed token, RESUME_TOKEN_FOREIGN for another log's,
 *   RESUME_TOKEN_FUTURE for a revision that this log has not reached, RESUME_TOKEN_TOO_OLD for history that is gone
 */
export function resolveStart(after: string, head: LogHead): bigint {
  if (after === '') return head.revision;
  if (after === OLDEST) return head.oldestRevision - 1n;
  const point = decodeResumeToken(after);
  assertSameLog(point.epoch, head.epoch);
  if (point.revision > head.revision) {
    throw new BatonError('RESUME_TOKEN_FUTURE', 'the resume token is ahead of the log', {
      metadata: { token_revision: String(point.revision), head_revision: String(head.revision) },
    });
  }
  assertKept(point.revision, head.oldestRevision);
  return point.revision;
}

/** @throws BatonError RESUME_TOKEN_FOREIGN when a place is of another log than the one at hand */
export function assertSameLog(epoch: string, current: string): void {
  if (epoch === current) return;
  throw new BatonError('RESUME_TOKEN_FOREIGN', 'the token belongs to another log than this database keeps', {
    metadata: { token_epoch: epoch, epoch: current },
  });
}

/** @throws BatonError RESUME_TOKEN_FUTURE when a failover has lost the change at `revision` */
export function assertNotLost(revision: bigint, isLost: boolean): void {
  if (!isLost) return;
  throw new BatonError('RESUME_TOKEN_FUTURE', 'the log has lost changes that were delivered', {
    metadata: { token_revision: String(revision) },
  });
}

/** @throws BatonError RESUME_TOKEN_TOO_OLD when events after `revision` are no longer kept */
export function assertKept(revision: bigint, oldestRevision: bigint): void {
  if (revision >= oldestRevision - 1n) return;
  throw new BatonError('RESUME_TOKEN_TOO_OLD', 'history after the resume token is no longer kept', {
    metadata: { token_revision: String(revision), oldest_revision: String(oldestRevision) },
  });
}
