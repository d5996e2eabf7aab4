import { fromBinary } from '@bufbuild/protobuf';
import { anyUnpack, durationMs } from '@bufbuild/protobuf/wkt';
import { ConnectError } from '@connectrpc/connect';
import type { Metadata } from '@grpc/grpc-js';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { StatusSchema } from '../../gen/google/rpc/status_pb.js';

/** An error as any client sees it, in one form for all protocols. */
export interface SeenError {
  readonly code: number;
  readonly message: string;
  readonly reason: string | undefined;
  readonly domain: string | undefined;
  readonly metadata: Record<string, string> | undefined;
  readonly violations: readonly (readonly [field: string, description: string])[];
  readonly retryDelayMs: number | undefined;
}

/** What the call failed with. Fails itself when the call succeeds. */
export async function seenError(call: Promise<unknown>): Promise<SeenError> {
  try {
    await call;
  } catch (error) {
    return error instanceof ConnectError ? fromConnect(error) : fromGrpc(error);
  }
  throw new Error('the call was expected to fail');
}

function fromConnect(error: ConnectError): SeenError {
  const [info] = error.findDetails(ErrorInfoSchema);
  const [request] = error.findDetails(BadRequestSchema);
  const [retry] = error.findDetails(RetryInfoSchema);
  return seen(error.code, error.rawMessage, info, request, retry);
}

export function fromGrpc(error: unknown): SeenError {
  const { code, details, metadata } = error as { code: number; details: string; metadata: Metadata };
  const [bytes] = metadata?.get('grpc-status-details-bin') ?? [];
  if (!Buffer.isBuffer(bytes)) return seen(code, details, undefined, undefined, undefined);
  const status = fromBinary(StatusSchema, bytes);
  // grpc-js decodes less of the message than connect encodes.
  const shown = [status.message, decodeURI(encodeURIComponent(status.message.toWellFormed()))];
  if (status.code !== code || !shown.includes(details)) throw new Error('status and trailers disagree');
  const find = <T>(unpack: (any: (typeof status.details)[number]) => T | undefined): T | undefined =>
    status.details.map(unpack).find((m) => m !== undefined);
  return seen(
    code,
    status.message,
    find((any) => anyUnpack(any, ErrorInfoSchema)),
    find((any) => anyUnpack(any, BadRequestSchema)),
    find((any) => anyUnpack(any, RetryInfoSchema)),
  );
}

function seen(
  code: number,
  message: string,
  info: { reason: string; domain: string; metadata: Record<string, string> } | undefined,
  request: { fieldViolations: { field: string; description: string }[] } | undefined,
  retry: { retryDelay?: Parameters<typeof durationMs>[0] | undefined } | undefined,
): SeenError {
  return {
    code,
    message,
    reason: info?.reason,
    domain: info?.domain,
    metadata: info?.metadata,
    violations: request?.fieldViolations.map((v) => [v.field, v.description] as const) ?? [],
    retryDelayMs: retry?.retryDelay && durationMs(retry.retryDelay),
  };
}
