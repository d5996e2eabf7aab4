/** A message as each transport sends it. */
import { MethodOptions_IdempotencyLevel } from '@bufbuild/protobuf/wkt';
import type { DescMethod } from '@bufbuild/protobuf';
import type { Prng } from '../support/log_prng.js';
import { mayWait, pathTo, type HttpInput } from './input.js';
import type { Sample } from './sample.js';

/** A message in the form that its transport takes. */
export interface Encoded {
  readonly binary: Buffer;
  readonly json: Buffer;
  readonly binaryOk: boolean;
  readonly jsonOk: boolean;
}

export function encoded({ wire, json, wireOk, jsonOk }: Sample): Encoded {
  return { binary: wire, json: Buffer.from(json), binaryOk: wireOk, jsonOk };
}

/** A frame of gRPC, gRPC-Web and Connect's streams. */
export function framed(data: Uint8Array, flags = 0, length = data.length): Buffer {
  const head = Buffer.alloc(5);
  head[0] = flags;
  head.writeUInt32BE(length >>> 0, 1);
  return Buffer.concat([head, data]);
}

type Transport = (prng: Prng, method: DescMethod, message: Encoded) => HttpInput;

interface Parts extends Partial<HttpInput> {
  readonly transport: string;
  readonly form: HttpInput['form'];
  readonly isJson: boolean;
}

function post(method: DescMethod, message: Encoded, { isJson, ...parts }: Parts): HttpInput {
  return {
    ...{ kind: 'http', method: method.name, faults: [], port: 'http', version: 2, verb: 'POST' },
    ...{ path: pathTo(method), headers: {}, body: isJson ? message.json : message.binary, ends: true },
    ...{ wellFormed: isJson ? message.jsonOk : message.binaryOk, mayWait: mayWait(method) },
    ...parts,
  };
}

const grpc =
  (port: 'grpc' | 'http', isJson: boolean): Transport =>
  (_, method, message) => {
    const suffix = isJson ? '+json' : '';
    return post(method, message, {
      ...{ transport: `gRPC${suffix} on the ${port} port`, form: 'grpc', isJson, port },
      headers: { 'content-type': `application/grpc${suffix}`, te: 'trailers' },
      body: framed(isJson ? message.json : message.binary),
    });
  };

const grpcWeb =
  (isJson: boolean): Transport =>
  (prng, method, message) => {
    const version = prng.pick([1, 2] as const);
    const suffix = isJson ? 'json' : 'proto';
    return post(method, message, {
      ...{ transport: `gRPC-Web ${suffix} over HTTP/${version}`, form: 'grpc-web', isJson, version },
      headers: { 'content-type': `application/grpc-web+${suffix}`, 'x-grpc-web': '1' },
      body: framed(isJson ? message.json : message.binary),
    });
  };

const connect =
  (isJson: boolean): Transport =>
  (prng, method, message) => {
    const version = prng.pick([1, 2] as const);
    const streams = method.methodKind !== 'unary';
    const codec = isJson ? 'json' : 'proto';
    const data = isJson ? message.json : message.binary;
    return post(method, message, {
      transport: `Connect ${codec} over HTTP/${version}`,
      ...{ form: streams ? 'connect-stream' : 'connect-unary', isJson, version },
      headers: { 'content-type': `application/${streams ? 'connect+' : ''}${codec}` },
      body: streams ? framed(data) : data,
    });
  };

/** GET where that is allowed, else as POST. */
const connectGet =
  (isJson: boolean): Transport =>
  (prng, method, message) => {
    if (
      method.idempotency !== MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS ||
      method.methodKind !== 'unary'
    )
      return connect(isJson)(prng, method, message);
    const version = prng.pick([1, 2] as const);
    const codec = isJson ? 'json' : 'proto';
    const data = isJson ? message.json : message.binary;
    // A longer head is refused before it is a request of Connect, by limits of its own.
    if (data.length > 8000) return connect(isJson)(prng, method, message);
    return post(method, message, {
      ...{ transport: `Connect GET ${codec} over HTTP/${version}`, form: 'connect-unary', isJson, version },
      verb: 'GET',
      path: `${pathTo(method)}?connect=v1&encoding=${codec}&base64=1&message=${data.toString('base64url')}`,
      body: Buffer.alloc(0),
    });
  };

export const TRANSPORTS: readonly Transport[] = [
  grpc('grpc', false),
  grpc('grpc', false),
  grpc('http', false),
  grpc('http', true),
  ...[false, true].flatMap((isJson) => [grpcWeb(isJson), connect(isJson), connectGet(isJson)]),
];
