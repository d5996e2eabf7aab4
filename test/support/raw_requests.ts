import { brotliCompressSync, gzipSync } from 'node:zlib';
import { fromBinary } from '@bufbuild/protobuf';
import { anyUnpack } from '@bufbuild/protobuf/wkt';
import { codeFromString } from '@connectrpc/connect/protocol-connect';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { StatusSchema, type Status } from '../../gen/google/rpc/status_pb.js';
import { fromGrpc } from './rpc_errors.js';
import { GrpcJsClient } from './rpc_grpc_client.js';

/** What became of a request that was sent as bytes. */
export interface RawOutcome {
  /** The number of the gRPC code; 0 for OK. */
  readonly code: number;
  readonly reason: string | undefined;
  readonly message: string;
  readonly fields: readonly string[];
  readonly omitted: number;
  readonly hasRetryInfo: boolean;
  /** The size of the answer as it came, where the client shows it. */
  readonly bytes: number;
}

export interface RawTarget {
  readonly grpcAddress: string;
  readonly httpUrl: string;
}

/** Sends the bytes of one message by one way, to `baton.v1.JobService/GetRun` or another method. */
export type RawRoute = (target: RawTarget, method: string, bytes: Buffer) => Promise<RawOutcome>;

const GZIP = 2;
const none = (bytes: Buffer): Buffer => bytes;

/** Every way by which a unary request in binary protobuf can come. */
export const BINARY_ROUTES: Readonly<Record<string, RawRoute>> = {
  gRPC: grpc(({ grpcAddress }) => grpcAddress, false),
  'gRPC, gzip': grpc(({ grpcAddress }) => grpcAddress, true),
  'gRPC on the HTTP port': grpc(({ httpUrl }) => new URL(httpUrl).host, false),
  'gRPC on the HTTP port, gzip': grpc(({ httpUrl }) => new URL(httpUrl).host, true),
  'gRPC-Web': web('application/grpc-web+proto', undefined, none),
  'gRPC-Web, gzip': web('application/grpc-web+proto', 'gzip', gzipSync),
  Connect: unary('application/proto', undefined, none),
  'Connect, gzip': unary('application/proto', 'gzip', gzipSync),
  'Connect, br': unary('application/proto', 'br', brotliCompressSync),
};

/** The same for one in JSON. */
export const JSON_ROUTES: Readonly<Record<string, RawRoute>> = {
  'Connect JSON': unary('application/json', undefined, none),
  'Connect JSON, gzip': unary('application/json; charset=utf-8', 'gzip', gzipSync),
  'Connect JSON, br': unary('application/json', 'br', brotliCompressSync),
  'gRPC-Web JSON': web('application/grpc-web+json', undefined, none),
};

/** WatchRuns over Connect, whose answer is a stream. */
export const STREAM_ROUTES: Readonly<Record<'binary' | 'json', Readonly<Record<string, RawRoute>>>> = {
  binary: {
    'Connect stream': web('application/connect+proto', undefined, none),
    'Connect stream, gzip': web('application/connect+proto', 'gzip', gzipSync),
  },
  json: {
    'Connect JSON stream': web('application/connect+json', undefined, none),
    'Connect JSON stream, br': web('application/connect+json', 'br', brotliCompressSync),
  },
};

function pathOf(method: string): string {
  return `/baton.v1.JobService/${method}`;
}

function grpc(addressOf: (target: RawTarget) => string, isPacked: boolean): RawRoute {
  return async (target, method, bytes) => {
    const client = new GrpcJsClient(addressOf(target), {
      ...(isPacked && { 'grpc.default_compression_algorithm': GZIP }),
    });
    try {
      const answer = await client.raw(pathOf(method), bytes);
      return { ...ok(answer.length) };
    } catch (error) {
      const seen = fromGrpc(error);
      const { code, reason, message, violations, metadata, retryDelayMs } = seen;
      const fields = violations.map(([field]) => field);
      const omitted = Number(metadata?.['violations_omitted'] ?? 0);
      return { code, reason, message, fields, omitted, hasRetryInfo: retryDelayMs !== undefined, bytes: 0 };
    } finally {
      client.close();
    }
  };
}

function ok(bytes: number): RawOutcome {
  return { code: 0, reason: undefined, message: '', fields: [], omitted: 0, hasRetryInfo: false, bytes };
}

function unary(type: string, encoding: string | undefined, pack: (bytes: Buffer) => Buffer): RawRoute {
  return async ({ httpUrl }, method, bytes) => {
    const headers = { 'content-type': type, ...(encoding !== undefined && { 'content-encoding': encoding }) };
    return connectOutcome(
      await fetch(httpUrl + pathOf(method), { method: 'POST', headers, body: pack(bytes) }),
    );
  };
}

/** Connect's own error: JSON with the details in base64. */
export async function connectOutcome(response: Response): Promise<RawOutcome> {
  const body = Buffer.from(await response.arrayBuffer());
  if (response.status === 200) return ok(body.length);
  return ofConnectError(JSON.parse(body.toString()) as ConnectError, body.length);
}

interface ConnectError {
  readonly code: string;
  readonly message?: string;
  readonly details?: readonly { readonly type: string; readonly value: string }[];
}

function ofConnectError({ code, message = '', details = [] }: ConnectError, bytes: number): RawOutcome {
  const any = details.map(({ type, value }) => ({
    $typeName: 'google.protobuf.Any' as const,
    typeUrl: `type.googleapis.com/${type}`,
    value: Buffer.from(value, 'base64'),
  }));
  return ofStatus({ code: codeFromString(code) ?? 2, message, details: any }, bytes);
}

function ofStatus({ code, message, details }: Omit<Status, '$typeName'>, bytes: number): RawOutcome {
  const infos = details.flatMap((any) => anyUnpack(any, ErrorInfoSchema) ?? []);
  const requests = details.flatMap((any) => anyUnpack(any, BadRequestSchema) ?? []);
  return {
    code,
    reason: infos[0]?.reason,
    message,
    fields: requests.flatMap(({ fieldViolations }) => fieldViolations.map(({ field }) => field)),
    omitted: Number(infos[0]?.metadata['violations_omitted'] ?? 0),
    hasRetryInfo: details.some((any) => anyUnpack(any, RetryInfoSchema) !== undefined),
    bytes,
  };
}

const TRAILERS = 0x80;
const END_STREAM = 0x02;

/** An enveloped protocol over HTTP/1.1. Reads the answer up to its first message or its end. */
function web(type: string, encoding: string | undefined, pack: (bytes: Buffer) => Buffer): RawRoute {
  const name = type.startsWith('application/connect') ? 'connect-content-encoding' : 'grpc-encoding';
  return async ({ httpUrl }, method, bytes) => {
    const data = pack(bytes);
    const head = Buffer.from([encoding === undefined ? 0 : 1, 0, 0, 0, 0]);
    head.writeUInt32BE(data.length, 1);
    const headers = { 'content-type': type, ...(encoding !== undefined && { [name]: encoding }) };
    const body = Buffer.concat([head, data]);
    const response = await fetch(httpUrl + pathOf(method), { method: 'POST', headers, body });
    return webOutcome(response);
  };
}

async function webOutcome(response: Response): Promise<RawOutcome> {
  if (response.body === null) throw new Error('an answer has no body');
  let read: Buffer = Buffer.alloc(0);
  for await (const chunk of response.body) {
    read = Buffer.concat([read, chunk as Uint8Array]);
    const end = 5 + (read.length < 5 ? Infinity : read.readUInt32BE(1));
    if (end > read.length) continue;
    const data = read.subarray(5, end);
    if (((read[0] ?? 0) & TRAILERS) !== 0) return ofTrailers(data.toString(), read.length);
    if (((read[0] ?? 0) & END_STREAM) === 0) return ok(read.length);
    const { error } = JSON.parse(data.toString()) as { error?: ConnectError };
    return error === undefined ? ok(read.length) : ofConnectError(error, read.length);
  }
  throw new Error('an answer has no end');
}

function ofTrailers(text: string, bytes: number): RawOutcome {
  const details = /^grpc-status-details-bin: (.*)\r$/m.exec(text)?.[1];
  if (details === undefined) throw new Error(`no details: ${text}`);
  return ofStatus(fromBinary(StatusSchema, Buffer.from(details, 'base64')), bytes);
}
