import { setTrailerStatus } from '@connectrpc/connect/protocol-grpc';
import type { Status } from '../../gen/google/rpc/status_pb.js';
import { BatonError } from '../base/errors.js';
import { errorJson, toConnectError } from './connect_errors.js';
import { truncate } from '../base/text.js';
import { fitTrailers, statusOf } from './errors.js';
import type { NodeRequest, NodeResponse } from './node_http.js';

/** Answers a request that reaches no handler: a wrong path, method or content type. */
export function refuse(
  request: NodeRequest,
  response: NodeResponse,
  httpStatus: number,
  allowedMethods: readonly string[] = [],
): void {
  if (httpStatus === 405) response.setHeader('allow', allowedMethods.join(', '));
  sendError(request, response, httpStatus, statusOf(refusal(request, httpStatus)));
}

/** Answers a request that the gate does not let in. */
export function refuseAtGate(
  request: NodeRequest,
  response: NodeResponse,
  { status, message }: { readonly status: number; readonly message: string },
): void {
  const reason = status === 400 ? 'INVALID_ARGUMENT' : 'PERMISSION_DENIED';
  sendError(request, response, status, statusOf(new BatonError(reason, message)));
}

function refusal(request: NodeRequest, httpStatus: number): BatonError {
  const path = truncate(request.url ?? '', 200);
  if (httpStatus === 415) {
    const type = truncate(request.headers['content-type'] ?? 'none', 200);
    return new BatonError(
      'INVALID_ARGUMENT',
      `content-type ${type} is not supported here; for JSON send content-type: application/json ` +
        '(application/connect+json for streams)',
    );
  }
  if (httpStatus === 505) return new BatonError('NOT_IMPLEMENTED', `${path} needs HTTP/2`);
  const what =
    httpStatus === 405 ? `${request.method} is not allowed for ${path}` : `there is nothing at ${path}`;
  return new BatonError('NOT_IMPLEMENTED', what);
}

/** An error over gRPC as the headers of a response that has nothing else. */
export function grpcHeaders(status: Status, contentType = 'application/grpc'): Record<string, string> {
  const headers = setTrailerStatus(new Headers(), toConnectError(fitTrailers(status)));
  return { 'content-type': contentType, ...Object.fromEntries(headers) };
}

/**
 * Writes an error outside of any RPC: as JSON in Connect's form, or, to who speaks gRPC, as a response of headers
 * alone, which is how gRPC reports what fails before a call begins.
 */
export function sendError(
  request: NodeRequest,
  response: NodeResponse,
  httpStatus: number,
  status: Status,
): void {
  // Over HTTP/2 the stream would stay open with a client that cannot finish sending what nobody reads.
  request.resume();
  const type = request.headers['content-type'] ?? '';
  response.setHeader('cache-control', 'no-store');
  if (type.startsWith('application/grpc')) {
    for (const [name, value] of Object.entries(grpcHeaders(status, type))) response.setHeader(name, value);
    // `writeHead` would send the headers at once and an empty DATA frame behind them. To clients that is no response
    // of headers alone but one without trailers, which they call INTERNAL or UNKNOWN.
    response.statusCode = 200;
    response.end();
    return;
  }
  const body = errorJson(status);
  response.writeHead(httpStatus, {
    'content-type': 'application/json',
    'content-length': body.byteLength,
    'x-content-type-options': 'nosniff',
  });
  if (request.method === 'HEAD') response.end();
  else response.end(body);
}
