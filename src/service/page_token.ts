import { invalidArgument } from '../base/errors.js';
import { openToken, sealToken } from '../base/sealed_token.js';
import { canonicalJson } from '../run/json.js';

/**
 * Page tokens are opaque: the last key and, where the answer is of runs, the epoch of the log, sealed for the request
 * that they go on from. So a token that was changed, sent with another filter or to another method, or to a database
 * that was restored since, is an error and not a wrong page.
 *
 * @param scope of the request: its method, and all that decides which items it lists. Its keys may come in any order,
 *   because clients write maps in any.
 */
export function encodePageToken(key: string, scope: PageScope, epoch?: string): string {
  const parts = [key, ...(epoch === undefined ? [] : [epoch])];
  return sealToken(purposeOf(scope), Buffer.from(JSON.stringify(parts)));
}

/** The method, and what else has to be the same for the next page. */
export type PageScope = readonly [method: string, of?: unknown];

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
  scope: PageScope,
  isKey: (key: string) => boolean,
): PageStart | undefined {
  if (token === '') return undefined;
  const content = openToken(purposeOf(scope), token);
  const start = content === undefined ? undefined : parse(content.toString());
  if (start === undefined || !isKey(start.key)) {
    throw invalidArgument([
      { field: 'page_token', description: 'is not a token that this request returned' },
    ]);
  }
  return start;
}

function purposeOf(scope: PageScope): string {
  return `page ${canonicalJson(scope)}`;
}

/** A seal has no secret: somebody may have made one over anything. */
function parse(text: string): PageStart | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!Array.isArray(value) || value.length < 1 || value.length > 2) return undefined;
  const [key, epoch] = value as unknown[];
  if (typeof key !== 'string') return undefined;
  return epoch === undefined || typeof epoch === 'string' ? { key, epoch } : undefined;
}
