import { invalidArgument, type BatonError, type FieldViolation } from '../base/errors.js';

const ENCODINGS = ['json', 'proto'];

/**
 * What is wrong with the query of a Connect GET. connect itself takes a message that is missing for an empty one, the
 * first of several, and calls bad base64 INTERNAL.
 */
export function checkGetQuery(query: string): BatonError | undefined {
  const given = new URLSearchParams(query);
  const violations: FieldViolation[] = [];
  const bad = (field: string, description: string): void => void violations.push({ field, description });
  for (const name of ['connect', 'encoding', 'message', 'base64', 'compression'])
    if (given.getAll(name).length > 1) bad(name, 'is given more than once');
  if (!ENCODINGS.includes(given.get('encoding') ?? '')) bad('encoding', `must be ${ENCODINGS.join(' or ')}`);
  if (!['v1', null].includes(given.get('connect'))) bad('connect', 'must be v1');
  if (!['', 'identity', null].includes(given.get('compression'))) bad('compression', 'is not taken in a GET');
  if (!['', '0', '1', null].includes(given.get('base64'))) bad('base64', 'must be 1, or not there');
  const message = given.get('message');
  if (message === null) bad('message', 'is required');
  else if (given.get('base64') === '1' && !isBase64(message)) bad('message', 'is not base64');
  return violations.length === 0 ? undefined : invalidArgument(violations);
}

/** Of either alphabet, with padding or without. A `+` that was not escaped has become a space. */
function isBase64(text: string): boolean {
  return /^[\w+/-]*={0,2}$/.test(text) && text.replace(/=+$/, '').length % 4 !== 1;
}
