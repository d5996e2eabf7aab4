import type { JsonWriteOptions } from '@bufbuild/protobuf';
import { anyUnpack } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError } from '@connectrpc/connect';
import { compressionBrotli, compressionGzip } from '@connectrpc/connect-node';
import { encodeEnvelope, readAllBytes, type UniversalServerResponse } from '@connectrpc/connect/protocol';
import {
  codeFromString,
  codeToHttpStatus,
  endStreamFlag,
  errorToJson,
  headerStreamEncoding,
  headerUnaryContentLength,
  headerUnaryEncoding,
} from '@connectrpc/connect/protocol-connect';
import {
  headerEncoding,
  headerGrpcMessage,
  headerGrpcStatus,
  headerStatusDetailsBin,
} from '@connectrpc/connect/protocol-grpc';
import {
  setTrailerStatus,
  trailerFlag,
  trailerParse,
  trailerSerialize,
} from '@connectrpc/connect/protocol-grpc-web';
import type { Status } from '../../gen/google/rpc/status_pb.js';
import { LIMITS } from '../base/limits.js';
import { DETAIL_REGISTRY } from './errors.js';

/** Details are given with their schemas, so that JSON clients also get the readable `debug` form of each. */
export function toConnectError(status: Status): ConnectError {
  const details = status.details.flatMap((any) => {
    const value = anyUnpack(any, DETAIL_REGISTRY);
    const desc = value && DETAIL_REGISTRY.getMessage(value.$typeName);
    return value && desc ? [{ desc, value }] : [];
  });
  return new ConnectError(status.message, status.code, undefined, details);
}

/** The body of a Connect error: `{code, message, details}`. */
export function errorJson(status: Status): Uint8Array {
  return encode(errorToJson(toConnectError(status), ERROR_JSON));
}

const ERROR_JSON: Partial<JsonWriteOptions> = { registry: DETAIL_REGISTRY };

/** The status for an error that connect made by itself; undefined leaves it as it is. */
export type FrameworkStatus = (code: number, text: string) => Status | undefined;

/**
 * Adds ErrorInfo to the errors that connect makes by itself: requests that cannot be parsed, are too large or badly
 * compressed. Most of them never pass an interceptor, so they are found on their way out, by the absence of details,
 * in the place where each protocol has its error. A response without such an error passes as it is.
 */
export async function completeErrors(
  response: UniversalServerResponse,
  toStatus: FrameworkStatus,
): Promise<UniversalServerResponse> {
  const { header, body, trailer } = response;
  const type = header?.get('content-type') ?? '';
  if (body === undefined || header === undefined) return response;
  if (type.startsWith('application/json') && response.status !== 200)
    return completeUnary(response, toStatus);
  if (type.startsWith('application/connect+')) {
    const encoding = header.get(headerStreamEncoding);
    const edit = (data: Uint8Array): Uint8Array => completeEndStream(data, toStatus);
    return { ...response, body: mapChunks(body, (frame) => editFrame(frame, endStreamFlag, encoding, edit)) };
  }
  if (type.startsWith('application/grpc-web')) {
    const encoding = header.get(headerEncoding);
    const edit = (data: Uint8Array): Uint8Array =>
      trailerSerialize(completeTrailer(trailerParse(data), toStatus));
    return { ...response, body: mapChunks(body, (frame) => editFrame(frame, trailerFlag, encoding, edit)) };
  }
  if (type.startsWith('application/grpc') && trailer !== undefined) {
    return { ...response, body: mapChunks(body, undefined, () => completeTrailer(trailer, toStatus)) };
  }
  return response;
}

async function completeUnary(
  response: UniversalServerResponse,
  toStatus: FrameworkStatus,
): Promise<UniversalServerResponse> {
  const header = new Headers(response.header);
  const raw = await readAllBytes(response.body ?? empty(), Number.MAX_SAFE_INTEGER);
  const data = await decompress(raw, header.get(headerUnaryEncoding));
  const status = missingStatus(parse(data), toStatus);
  if (status === undefined) return { ...response, body: single(raw) };
  const body = errorJson(status);
  header.delete(headerUnaryEncoding);
  header.set(headerUnaryContentLength, String(body.byteLength));
  return { ...response, status: codeToHttpStatus(status.code), header, body: single(body) };
}

function completeEndStream(data: Uint8Array, toStatus: FrameworkStatus): Uint8Array {
  const end = parse(data);
  const status = missingStatus(end['error'], toStatus);
  return status === undefined
    ? data
    : encode({ ...end, error: errorToJson(toConnectError(status), ERROR_JSON) });
}

function completeTrailer(trailer: Headers, toStatus: FrameworkStatus): Headers {
  const code = Number(trailer.get(headerGrpcStatus) ?? 0);
  if (code === 0 || trailer.has(headerStatusDetailsBin)) return trailer;
  const status = toStatus(code, decodeURIComponent(trailer.get(headerGrpcMessage) ?? ''));
  return status === undefined ? trailer : setTrailerStatus(trailer, toConnectError(status));
}

/** The status for an error in Connect's JSON form that has no details yet. */
function missingStatus(error: unknown, toStatus: FrameworkStatus): Status | undefined {
  if (typeof error !== 'object' || error === null || 'details' in error) return undefined;
  const { code, message } = error as { code?: string; message?: string };
  return toStatus(codeFromString(code ?? '') ?? Code.Unknown, message ?? '');
}

/** Edits the data of a frame (flags, length, data) that has this flag; other frames pass untouched. */
async function editFrame(
  frame: Uint8Array,
  flag: number,
  encoding: string | null,
  edit: (data: Uint8Array) => Uint8Array,
): Promise<Uint8Array> {
  const flags = frame[0] ?? 0;
  if ((flags & flag) === 0) return frame;
  const data = await decompress(frame.subarray(5), (flags & 1) === 0 ? null : encoding);
  return encodeEnvelope(flag, edit(data));
}

/**
 * Maps a body chunk by chunk; connect gives one frame at a time. `throw` and `return` must reach the source, which
 * learns from them that its reader is gone.
 */
function mapChunks(
  body: AsyncIterable<Uint8Array>,
  map: ((chunk: Uint8Array) => Promise<Uint8Array>) | undefined,
  atEnd?: () => void,
): AsyncIterable<Uint8Array> {
  const source = body[Symbol.asyncIterator]();
  const next = async (): Promise<IteratorResult<Uint8Array>> => {
    const result = await source.next();
    if (result.done === true) atEnd?.();
    else if (map !== undefined) return { done: false, value: await map(result.value) };
    return result;
  };
  const iterator: AsyncIterator<Uint8Array> = { next };
  if (source.return !== undefined) iterator.return = source.return.bind(source);
  if (source.throw !== undefined) iterator.throw = source.throw.bind(source);
  return { [Symbol.asyncIterator]: () => iterator };
}

async function decompress(data: Uint8Array, encoding: string | null): Promise<Uint8Array> {
  const compression = [compressionGzip, compressionBrotli].find(({ name }) => name === encoding);
  return compression === undefined ? data : compression.decompress(data, LIMITS.messageBytes);
}

function parse(data: Uint8Array): Record<string, unknown> {
  return JSON.parse(new TextDecoder().decode(data)) as Record<string, unknown>;
}

function encode(json: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(json));
}

async function* single(bytes: Uint8Array): AsyncIterable<Uint8Array> {
  yield bytes;
}

async function* empty(): AsyncIterable<Uint8Array> {}
