/** What arrives on a port from whoever speaks no protocol, or stops in the middle of one. */
import type { Prng } from '../support/log_prng.js';
import type { SocketInput } from './input.js';

const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
const POST = 'POST /baton.v1.JobService/GetRun HTTP/1.1\r\n';
const JSON_TYPE = 'Content-Type: application/json\r\n';

const HTTP1 = [
  'GET / HTTP/1.1\r\n\r\n',
  'GET / HTTP/1.0\r\n\r\n',
  'GET / HTTP/9.9\r\nHost: localhost\r\n\r\n',
  'GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n',
  `${POST}Host: localhost\r\n${JSON_TYPE}Content-Length: 2\r\n\r\n`,
  `${POST}Host: localhost\r\n${JSON_TYPE}Content-Length: 2\r\n\r\n{}{}{}`,
  `${POST}Host: localhost\r\n${JSON_TYPE}Content-Length: -1\r\n\r\n{}`,
  `${POST}Host: localhost\r\n${JSON_TYPE}Content-Length: 99999999999\r\n\r\n{}`,
  `${POST}Host: localhost\r\n${JSON_TYPE}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n`,
  `${POST}Host: localhost\r\n${JSON_TYPE}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}`,
  `${POST}Host: localhost\r\n${JSON_TYPE}Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n`,
  `${POST}Host: localhost\r\nExpect: 100-continue\r\n${JSON_TYPE}Content-Length: 2\r\n\r\n`,
  `${POST}Host: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n`,
  'GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n',
  'CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n',
  'OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n',
  `GET /${'a'.repeat(20_000)} HTTP/1.1\r\nHost: localhost\r\n\r\n`,
  'G\0T / HTTP/1.1\r\nHost: localhost\r\n\r\n',
  '\r\n\r\n\r\n',
  '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03',
] as const;

function frame(prng: Prng, type: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  const { length } = payload;
  head.writeUIntBE(prng.chance(0.85) ? length : prng.pick([0, length + 1, 2 ** 24 - 1]), 0, 3);
  head[3] = type;
  head[4] = prng.pick([0, 0, 1, 4, 5, 8, 0x20, 0xff]);
  head.writeUInt32BE(prng.pick([0, 1, 1, 2, 3, 5, 2 ** 31 - 1, 2 ** 31]), 5);
  return Buffer.concat([head, payload]);
}

const bytes = (prng: Prng, most: number): Buffer =>
  Buffer.from(Array.from({ length: prng.between(0, most) }, () => prng.between(0, 255)));

/** A connection of HTTP/2 that begins well, for most of them. */
function http2(prng: Prng): Buffer[] {
  const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
  const count = prng.pick([1, 3, 10, 200]);
  const [type, payload] = [prng.between(0, 12), bytes(prng, 40)];
  const isFlood = count === 200;
  const frames = Array.from({ length: count }, () =>
    isFlood ? frame(prng, type, payload) : frame(prng, prng.between(0, 12), bytes(prng, 64)),
  );
  return [PREFACE, ...(prng.chance(0.8) ? [settings] : []), ...frames];
}

export function socketInput(prng: Prng): SocketInput {
  const [fault, chunks] = prng.pick<() => [string, Buffer[]]>([
    () => ['garbage', [bytes(prng, 300)]],
    () => ['HTTP/1.1', [Buffer.from(prng.pick(HTTP1), 'latin1')]],
    () => {
      const text = Buffer.from(prng.pick(HTTP1), 'latin1');
      return ['half a request', [text.subarray(0, prng.between(1, text.length))]];
    },
    () => ['half a preface', [PREFACE.subarray(0, prng.between(1, PREFACE.length))]],
    () => ['frames of HTTP/2', http2(prng)],
    () => ['nothing', []],
  ])();
  const port = prng.pick(['grpc', 'http', 'http'] as const);
  return { kind: 'socket', faults: [fault], port, chunks, leaving: prng.pick(['wait', 'end', 'reset']) };
}
