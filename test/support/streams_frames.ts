import { fromBinary } from '@bufbuild/protobuf';
import { base64Decode } from '@bufbuild/protobuf/wire';
import { WatchRunsResponseSchema, type WatchRunsResponse } from '../../gen/baton/v1/job_service_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { StatusSchema } from '../../gen/google/rpc/status_pb.js';

/** How a stream ended: with a status, or with the connection or the stream being reset. */
export interface StreamEnd {
  /** `ok`, `reset`, or the name of the status as Connect spells it. */
  readonly code: string;
  readonly reason: string;
}

export const OK: StreamEnd = { code: 'ok', reason: '' };
export const RESET: StreamEnd = { code: 'reset', reason: '' };

const END_FLAG = 2;
const CODES: Readonly<Record<number, string>> = {
  1: 'canceled',
  4: 'deadline_exceeded',
  8: 'resource_exhausted',
  14: 'unavailable',
};

/** Cuts a body of gRPC or Connect streaming (flags, length, data) into messages as its bytes arrive. */
export class Frames {
  #rest: Buffer = Buffer.alloc(0);
  /** From Connect's last frame. */
  end: StreamEnd | undefined;

  take(chunk: Buffer): WatchRunsResponse[] {
    let rest = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    const messages: WatchRunsResponse[] = [];
    while (rest.length >= 5 && rest.length >= 5 + rest.readUInt32BE(1)) {
      const end = 5 + rest.readUInt32BE(1);
      const data = rest.subarray(5, end);
      if (((rest[0] ?? 0) & END_FLAG) === 0) messages.push(fromBinary(WatchRunsResponseSchema, data));
      else this.end = connectEnd(data);
      rest = rest.subarray(end);
    }
    this.#rest = rest;
    return messages;
  }
}

export function frame(data: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(data.length, 1);
  return Buffer.concat([head, data]);
}

interface ConnectEnd {
  readonly error?: {
    readonly code?: string;
    readonly details?: readonly { readonly type: string; readonly value: string }[];
  };
}

function connectEnd(data: Buffer): StreamEnd {
  const { error } = JSON.parse(data.toString()) as ConnectEnd;
  if (error === undefined) return OK;
  const info = error.details?.find(({ type }) => type === ErrorInfoSchema.typeName);
  const reason = info === undefined ? '' : fromBinary(ErrorInfoSchema, base64Decode(info.value)).reason;
  return { code: error.code ?? '', reason };
}

/** From gRPC's trailers. */
export function grpcEnd(status: number, details: string | undefined): StreamEnd {
  if (status === 0) return OK;
  const any = details === undefined ? [] : fromBinary(StatusSchema, Buffer.from(details, 'base64')).details;
  const info = any.find(({ typeUrl }) => typeUrl.endsWith(ErrorInfoSchema.typeName));
  const reason = info === undefined ? '' : fromBinary(ErrorInfoSchema, info.value).reason;
  return { code: codeName(status), reason };
}

export function codeName(status: number): string {
  return CODES[status] ?? `code ${status}`;
}
