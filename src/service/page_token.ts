import { createHash } from 'node:crypto';
import { invalidArgument } from '../base/errors.js';

/**
 * Page tokens are opaque and bound to what was asked for: base64url of a JSON array of the last key, a digest of the
 * request and, where the answer is of runs, the epoch of the log. So a token sent with another filter, or to a database
 * that was restored since, is an error and not a wrong page.
 */
function digest(scope: unknown): string {
  return createHash('sha256').update(JSON.stringify(scope)).digest('base64url').slice(0, 16);
}

export function encodePageToken(key: string, scope: unknown, epoch?: string): string {
  const parts = [key, digest(scope), ...(epoch === undefined ? [] : [epoch])];
  return Buffer.from(JSON.stringify(parts)).toString('base64url');
}

/** Where the page before ended. */
export interface PageStart {
  readonly key: string;
  /** Of the log; undefined in tokens that have none. */
  readonly epoch: string | undefined;
}

/**
 * @returns where the page starts, undefined for the first page
 * @throws BatonError INVALID_ARGUMENT for a token that is not of this request
 */
export function decodePageToken(
  token: string,
  scope: unknown,
  isKey: (key: string) => boolean,
): PageStart | undefined {
  if (token === '') return undefined;
  const start = parse(token, digest(scope));
  if (start === undefined || !isKey(start.key)) {
    throw invalidArgument([
      { field: 'page_token', description: 'is not a token that this request returned' },
    ]);
  }
  return start;
}

function parse(token: string, expected: string): PageStart | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(token, 'base64url').toString());
    if (!Array.isArray(value) || value.length < 2 || value.length > 3) return undefined;
    const [key, scope, epoch] = value as unknown[];
    if (typeof key !== 'string' || scope !== expected) return undefined;
    return epoch === undefined || typeof epoch === 'string' ? { key, epoch } : undefined;
  } catch {
    return undefined;
  }
}
