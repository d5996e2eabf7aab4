/** What is wrong with a request around its message: headers, frames, compression, paths. */
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';
import type { Prng } from '../support/log_prng.js';
import { BULK, METHODS, pathTo, type HttpInput } from './input.js';
import { framed } from './requests.js';

type Twist = (prng: Prng, input: HttpInput) => HttpInput;

const CONTENT_TYPES = [
  ...['application/json', 'application/proto', 'application/connect+json', 'application/connect+proto'],
  ...['application/grpc', 'application/grpc+json', 'application/grpc-web', 'application/grpc-web-text'],
  ...['application/json; charset=latin1', 'application/JSON', 'text/plain', 'multipart/form-data', '', 'x'],
  ...['application/grpc+thrift', 'application/connect+xml', 'application/grpc-web+proto;a=b', '*/*'],
] as const;
const ENCODINGS = ['gzip', 'br', 'identity', 'deflate', 'zstd', 'GZIP', '', 'gzip, br', 'x'] as const;
const TIMEOUTS = [
  ...['0', '1', '5', '-1', '1e3', '0x10', '99999999999999', '', 'abc', '1.5', '0n', '1n', '1m', '5m', '0S'],
  ...['99999999H', '100000000H', '-1S', '1s', '1', 'S', '2147483648m', '1 S'],
] as const;
const PATHS = [
  ...['/', '*', '//', '/baton.v1.JobService', '/baton.v1.JobService/', '/baton.v1.JobService/NoSuch'],
  ...['/baton.v2.JobService/GetRun', '/baton.v1.jobservice/getrun', '/baton.v1.JobService/GetRun/'],
  ...[
    '/baton.v1.JobService/GetRun?',
    '/baton.v1.JobService%2FGetRun',
    '/%00',
    '/..%2f',
    '/v1/events/',
    '/healthz/x',
  ],
  ...['/readyz', '/metrics', '/favicon.ico', `/${'a'.repeat(4000)}`],
] as const;
const VERBS = ['GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'OPTIONS', 'POST'] as const;
const BOMB_BYTES = 20 * 2 ** 20;
/** An answer has to be small whatever it has been compressed from, so one of each is enough. */
const BOMBS = { gzip: once(() => gzipSync(Buffer.alloc(BOMB_BYTES))), br: once(brotliBomb) };

function brotliBomb(): Buffer {
  const params = { [constants.BROTLI_PARAM_QUALITY]: 3 };
  return brotliCompressSync(Buffer.alloc(BOMB_BYTES), { params });
}

function once<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}

const header = (input: HttpInput, name: string, value: string | readonly string[]): HttpInput => ({
  ...input,
  headers: { ...input.headers, [name]: value },
});

const isFramed = ({ form, verb }: HttpInput): boolean =>
  verb === 'POST' && (form === 'grpc' || form === 'grpc-web' || form === 'connect-stream');

/** The header that names the compression of what is sent. */
function encodingHeader({ form }: HttpInput): string {
  if (form === 'connect-unary') return 'content-encoding';
  return form === 'connect-stream' ? 'connect-content-encoding' : 'grpc-encoding';
}

function withData(input: HttpInput, data: Buffer, flags: number): HttpInput {
  return { ...input, body: isFramed(input) ? framed(data, flags) : data };
}

const dataOf = (input: HttpInput): Buffer => (isFramed(input) ? input.body.subarray(5) : input.body);

const TWISTS: Readonly<Record<string, Twist>> = {
  'content type': (prng, input) => ({
    ...header(input, 'content-type', prng.pick(CONTENT_TYPES)),
    form: 'plain',
  }),
  'compressed well': (prng, input) => {
    const [name, compress] = prng.pick([['gzip', gzipSync] as const, ['br', brotliCompressSync] as const]);
    return withData(header(input, encodingHeader(input), name), compress(dataOf(input)), 1);
  },
  'compressed badly': (prng, input) => {
    const compressed = gzipSync(dataOf(input));
    const at = prng.between(0, compressed.length - 1);
    const broken = prng.pick([
      compressed.subarray(0, at),
      Buffer.concat([
        compressed.subarray(0, at),
        Buffer.of(prng.between(0, 255)),
        compressed.subarray(at + 1),
      ]),
      Buffer.concat([compressed, compressed]),
      Buffer.from('not compressed at all'),
    ]);
    return withData(header(input, encodingHeader(input), prng.pick(['gzip', 'br'])), broken, 1);
  },
  'compression bomb': (prng, input) => {
    const name = prng.pick(['gzip', 'br'] as const);
    return withData(header(input, encodingHeader(input), name), BOMBS[name](), 1);
  },
  encoding: (prng, input) =>
    header(input, prng.pick([encodingHeader(input), 'content-encoding']), prng.pick(ENCODINGS)),
  'accepted encoding': (prng, input) =>
    header(
      input,
      prng.pick(['accept-encoding', 'grpc-accept-encoding', 'connect-accept-encoding']),
      prng.pick([...ENCODINGS, 'gzip;q=0', '*', 'gzip,br,zstd']),
    ),
  'flags of the frame': (prng, input) =>
    isFramed(input)
      ? { ...input, body: framed(dataOf(input), prng.pick([1, 2, 3, 4, 0x80, 0x81, 0xff])) }
      : input,
  'length of the frame': (prng, input) => {
    const { length } = dataOf(input);
    const lie = prng.pick([
      0,
      length + 1,
      Math.max(0, length - 1),
      2 ** 24,
      2 ** 24 + 1,
      2 ** 31,
      2 ** 32 - 1,
    ]);
    return isFramed(input) ? { ...input, body: framed(dataOf(input), 0, lie) } : input;
  },
  'number of messages': (prng, input) => {
    const bodies = [Buffer.alloc(0), Buffer.concat([input.body, input.body]), input.body.subarray(0, 3)];
    return { ...input, body: prng.pick([...bodies, Buffer.concat([input.body, Buffer.alloc(7, 1)])]) };
  },
  timeout: (prng, input) =>
    header(input, prng.pick(['grpc-timeout', 'connect-timeout-ms']), prng.pick(TIMEOUTS)),
  metadata: (prng, input) => {
    const name = prng.pick([
      'x-odd',
      'x-odd-bin',
      'grpc-trace-bin',
      'traceparent',
      'authorization',
      'cookie',
    ]);
    const value = prng.pick([
      '',
      '!!!',
      '====',
      'AAA',
      'a,b',
      '\t',
      'é',
      '%',
      'x'.repeat(9000),
      'x'.repeat(20_000),
    ]);
    // Clients refuse to send some names twice.
    return header(input, name, name.startsWith('x-') && prng.chance(0.3) ? [value, value] : value);
  },
  'many headers': (prng, input) => {
    const count = prng.pick([50, 200, 1500]);
    const more = Object.fromEntries(Array.from({ length: count }, (_, index) => [`x-${index}`, 'a']));
    return { ...input, headers: { ...input.headers, ...more } };
  },
  protocol: (prng, input) => {
    // Clients refuse to send `te` over HTTP/2.
    const names = ['connect-protocol-version', 'x-grpc-web', ...(input.version === 1 ? ['te'] : [])];
    return header(input, prng.pick(names), prng.pick(['2', '', '0', 'x']));
  },
  host: (prng, input) =>
    header(
      input,
      prng.pick(['origin', 'sec-fetch-site', 'referer', 'x-forwarded-host']),
      prng.pick(['http://evil.example', 'null', 'cross-site', 'same-site', '']),
    ),
  verb: (prng, input) => ({ ...input, verb: prng.pick(VERBS), form: 'plain' }),
  path: (prng, input) => ({ ...input, path: prng.pick(PATHS), form: 'plain' }),
  'other method': (prng, input) => {
    // A message of another type has no fence.
    const methods = METHODS.filter(({ name }) => !BULK.has(name));
    return { ...input, path: pathTo(prng.pick(methods)), form: 'plain', mayWait: true };
  },
  query: (prng, input) => ({
    ...input,
    path:
      input.path +
      prng.pick(['?', '&connect=v2', '&message=%', '&base64=2', '&compression=gzip', '&encoding=x']),
  }),
  'no end': (_, input) => ({ ...input, ends: false }),
  'cut off': (prng, input) => ({
    ...input,
    body: input.body.subarray(0, prng.between(0, input.body.length)),
    ends: prng.chance(0.5),
  }),
};

/** One or two faults, of those that this request can have. */
export function twisted(prng: Prng, input: HttpInput): HttpInput {
  const names = Object.keys(TWISTS);
  const faults = [prng.pick(names), ...(prng.chance(0.25) ? [prng.pick(names)] : [])];
  const result = faults.reduce((so, name) => TWISTS[name]!(prng, so), input);
  return { ...result, faults, wellFormed: false };
}
