/** Finds the error in an answer, where each protocol has it. */
import { fromBinary } from '@bufbuild/protobuf';
import { Code } from '@connectrpc/connect';
import { codeFromString } from '@connectrpc/connect/protocol-connect';
import { BadRequestSchema, ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { StatusSchema } from '../../gen/google/rpc/status_pb.js';
import type { Form } from './input.js';
import type { Answer } from './send.js';

export interface FoundError {
  readonly code: Code;
  readonly message: string;
  readonly reason: string | undefined;
  readonly domain: string | undefined;
  readonly violations: number;
}

/** An error; that there is none; or that the answer is none of this form. */
export type Finding = FoundError | 'ok' | { readonly malformed: string };

/** @param form how the request wanted its answer */
export function errorIn(form: Form, answer: Answer): Finding {
  const type = answer.headers['content-type'] ?? '';
  if (type.startsWith('application/grpc-web')) return inGrpcWeb(answer);
  if (type.startsWith('application/grpc')) return inTrailers({ ...answer.headers, ...answer.trailers });
  if (type.startsWith('application/connect+')) return inConnectStream(answer);
  if (answer.status !== undefined && answer.status >= 400) return inJson(answer.body);
  return form === 'grpc' || form === 'grpc-web' ? { malformed: `content-type ${type}` } : 'ok';
}

function inTrailers(trailers: Readonly<Record<string, string>>): Finding {
  const status = trailers['grpc-status'];
  if (status === undefined) return { malformed: 'no grpc-status' };
  if (status === '0') return 'ok';
  const details = trailers['grpc-status-details-bin'];
  const message = trailers['grpc-message'] ?? '';
  const any = details === undefined ? [] : fromBinary(StatusSchema, Buffer.from(details, 'base64')).details;
  const parts = any.map(({ typeUrl, value }) => ({ type: typeUrl.split('/').at(-1) ?? '', value }));
  return { code: Number(status), message, ...fromDetails(parts) };
}

function fromDetails(
  parts: readonly { readonly type: string; readonly value: Uint8Array }[],
): Pick<FoundError, 'reason' | 'domain' | 'violations'> {
  const of = (name: string): Uint8Array | undefined => parts.find(({ type }) => type === name)?.value;
  const [info, request] = [of(ErrorInfoSchema.typeName), of(BadRequestSchema.typeName)];
  const { reason, domain } = info === undefined ? {} : fromBinary(ErrorInfoSchema, info);
  const violations = request === undefined ? [] : fromBinary(BadRequestSchema, request).fieldViolations;
  return { reason, domain, violations: violations.length };
}

function* frames(body: Buffer): Generator<{ readonly flags: number; readonly data: Buffer }> {
  for (let rest = body; rest.length >= 5;) {
    const end = 5 + rest.readUInt32BE(1);
    yield { flags: rest[0] ?? 0, data: rest.subarray(5, end) };
    rest = rest.subarray(end);
  }
}

function inGrpcWeb({ headers, body }: Answer): Finding {
  if (headers['grpc-status'] !== undefined) return inTrailers(headers);
  for (const { flags, data } of frames(body)) {
    if ((flags & 0x80) === 0) continue;
    const lines = data
      .toString()
      .split('\r\n')
      .filter((line) => line !== '');
    const pairs = lines.map((line) => [
      line.slice(0, line.indexOf(':')).toLowerCase(),
      line.slice(line.indexOf(':') + 1).trim(),
    ]);
    return inTrailers(Object.fromEntries(pairs) as Record<string, string>);
  }
  return { malformed: 'no trailers' };
}

function inConnectStream({ body }: Answer): Finding {
  for (const { flags, data } of frames(body)) {
    if ((flags & 2) === 0) continue;
    const { error } = JSON.parse(data.toString()) as { error?: object };
    return error === undefined ? 'ok' : fromConnect(error);
  }
  return { malformed: 'no last frame' };
}

function inJson(body: Buffer): Finding {
  try {
    return fromConnect(JSON.parse(body.toString()) as object);
  } catch {
    return { malformed: `not JSON: ${body.toString('latin1', 0, 60)}` };
  }
}

interface ConnectError {
  readonly code?: string;
  readonly message?: string;
  readonly details?: readonly { readonly type: string; readonly value: string }[];
}

function fromConnect(error: ConnectError): Finding {
  const { code = '', message = '', details = [] } = error;
  const parts = details.map(({ type, value }) => ({ type, value: Buffer.from(value, 'base64') }));
  return { code: codeFromString(code) ?? Code.Unknown, message, ...fromDetails(parts) };
}
