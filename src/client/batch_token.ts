/**
 * The place behind one event inside of a batch: `check~revision~token`, with the server's token of the message before. The
 * server checks its own token whole; the check does so for the rest, so that no text that was changed or cut is another
 * place. The token is last: whatever is cut from the end, is cut from it.
 */
const FORM = /^([0-9a-f]{8})~((\d{1,19})~(.+))$/s;

export function batchToken(token: string, revision: bigint): string {
  const place = `${revision}~${token}`;
  return `${checksum(place)}~${place}`;
}

/** What was given to `batchToken`; undefined for any other text, which is for the server to judge. */
export function parseBatchToken(text: string): { token: string; revision: bigint } | undefined {
  const [, check, place = '', revision, token] = FORM.exec(text) ?? [];
  if (revision === undefined || token === undefined || checksum(place) !== check) return undefined;
  return { token, revision: BigInt(revision) };
}

/** FNV-1a of 32 bits: a single character that differs always shows. */
function checksum(text: string): string {
  let hash = 0x811c9dc5;
  for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, '0');
}
