import { createHash } from 'node:crypto';

/** 64 bits: a changed token passes once in 1.8e19 changes. */
const SEAL_BYTES = 8;
/** Longer texts are no token and need no look; the longest that is made has about 200 characters. */
const TOKEN_CHARS_MAX = 1024;

/**
 * An opaque text that a client keeps and gives back: base64url of the content and of a digest over the content and its
 * purpose, so that a text that was cut, changed or meant for something else is an error and not another place. The
 * purpose is told apart from the content and is not in the token.
 *
 * There is no secret in it, so that every server reads what any other made. It holds against accidents, not against
 * somebody who makes tokens up: a token is a place and no right.
 */
export function sealToken(purpose: string, content: Uint8Array): string {
  return Buffer.concat([content, seal(purpose, content)]).toString('base64url');
}

/** The content of a token that `sealToken` made for this purpose; undefined for any other text. */
export function openToken(purpose: string, token: string): Buffer | undefined {
  if (token.length > TOKEN_CHARS_MAX) return undefined;
  const bytes = Buffer.from(token, 'base64url');
  // The decoder passes over foreign characters and over bits of the last one that belong to no byte.
  if (bytes.length < SEAL_BYTES || bytes.toString('base64url') !== token) return undefined;
  const content = bytes.subarray(0, -SEAL_BYTES);
  return bytes.subarray(-SEAL_BYTES).equals(seal(purpose, content)) ? content : undefined;
}

function seal(purpose: string, content: Uint8Array): Buffer {
  // The length keeps the two apart: no purpose and content have the digest of another such pair.
  const head = `baton.v1 token\0${purpose.length}\0${purpose}`;
  return createHash('sha256').update(head).update(content).digest().subarray(0, SEAL_BYTES);
}
