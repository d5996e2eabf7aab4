import { createHash } from 'node:crypto';
import { invalidArgument } from '../base/errors.js';

/**
 * Page tokens are opaque and bound to what was asked for: base64url of a JSON array of the last key and a digest of
 * the request, so that a token sent with another filter is an error and not a wrong page.
 */
function digest(scope: unknown): string {
  return createHash('sha256').update(JSON.stringify(scope)).digest('base64url').slice(0, 16);
}

export function encodePageToken(key: string, scope: unknown): string {
  return Buffer.from(JSON.stringify([key, digest(scope)])).toString('base64url');
}

/**
 * @returns the key after which the page starts, undefined for the first page
 * @throws BatonError INVALID_ARGUMENT for a token that is not of this request
 */
export function decodePageToken(
  token: string,
  scope: unknown,
  isKey: (key: string) => boolean,
): string | undefined {
  if (token === '') return undefined;
  const key = parse(token, digest(scope));
  if (key === undefined || !isKey(key)) {
    throw invalidArgument([
      { field: 'page_token', description: 'is not a token that this request returned' },
    ]);
  }
  return key;
}

function parse(token: string, expected: string): string | undefined {
  try {
    const value: unknown = JSON.parse(Buffer.from(token, 'base64url').toString());
    if (!Array.isArray(value) || value.length !== 2) return undefined;
    const [key, scope] = value as unknown[];
    return typeof key === 'string' && scope === expected ? key : undefined;
  } catch {
    return undefined;
  }
}
