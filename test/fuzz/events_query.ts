/** GET /v1/events with queries that people and programs get wrong. */
import type { Prng } from '../support/log_prng.js';
import type { HttpInput } from './input.js';
import { oddText, withOneFlip } from './values.js';
import type { Vocabulary } from './vocabulary.js';

const NAMES = [
  ...['after', 'run_id', 'pipeline', 'stage', 'status', 'state', 'repository', 'label', 'include_state'],
  ...['include_payload', 'until_terminal', 'bookmark_interval', 'no_such', '__proto__', ''],
] as const;
const FLAGS = ['true', 'false', '1', '', 'TRUE'] as const;
const INTERVALS = ['1', '10s', '0', '-1', '61', '1.5', '0.0000000001', '1e1', 'x'] as const;

export function eventsInput(prng: Prng, vocabulary: Vocabulary): HttpInput {
  const isMany = prng.chance(0.05);
  const count = isMany ? 500 : prng.between(0, 4);
  const query = Array.from({ length: count }, () => {
    const name = prng.pick(NAMES);
    return `${encode(prng, name)}=${encode(prng, valueOf(prng, name, vocabulary))}`;
  }).join('&');
  const version = prng.pick([1, 2] as const);
  const path = `/v1/events?${query}`;
  const resumes = prng.chance(0.5);
  const lastEventId = prng.pick(['', 'end', 'x', ...vocabulary.resumeTokens]);
  return {
    ...{
      kind: 'http',
      method: 'GET /v1/events',
      transport: `HTTP/${version}`,
      faults: [],
      port: 'http',
      version,
    },
    ...{ verb: 'GET', path, body: Buffer.alloc(0), ends: true, form: 'events' },
    headers: {
      accept: prng.pick(['*/*', 'text/event-stream', 'application/x-ndjson', 'text/event-stream;q=0']),
      ...(resumes ? { 'last-event-id': lastEventId } : {}),
    },
    // A longer head is refused before it is looked at.
    ...{ wellFormed: path.length < 8000, mayWait: true },
  };
}

function valueOf(prng: Prng, name: string, vocabulary: Vocabulary): string {
  if (prng.chance(0.25)) return oddText(prng, 300);
  switch (name) {
    case 'after': {
      const token = prng.pick(['', 'oldest', ...vocabulary.resumeTokens]);
      return prng.chance(0.3) ? withOneFlip(prng, token) : token;
    }
    case 'run_id':
      return prng.pick(vocabulary.runIds);
    case 'pipeline':
      return prng.pick(vocabulary.pipelines);
    case 'label':
      return prng.pick(['fuzz=yes', '__proto__=x', '=', 'a', 'a=b=c']);
    case 'state':
      return prng.pick(['PENDING', 'RUN_STATE_ACTIVE', 'pending', '1']);
    case 'bookmark_interval':
      return prng.pick(INTERVALS);
    default:
      return prng.pick(FLAGS);
  }
}

/** As URLs have it, or as it is, as far as a request line may hold it. */
function encode(prng: Prng, text: string): string {
  const escaped = encodeURIComponent(text.toWellFormed());
  if (prng.chance(0.9)) return escaped;
  return prng.pick([escaped.replaceAll('%', '%25'), '%', '%zz', '%ff', '%ed%a0%80', '+', escaped]);
}
