import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerRequest, Http2ServerResponse } from 'node:http2';

/** A request as either of Node's servers gives it. */
export type NodeRequest = IncomingMessage | Http2ServerRequest;
export type NodeResponse = ServerResponse | Http2ServerResponse;

/** The path without its query. */
export function pathOf(request: NodeRequest): string {
  return (request.url ?? '').split('?', 1)[0] ?? '';
}

/** The query without its question mark; '' when there is none. */
export function queryOf(request: NodeRequest): string {
  const url = request.url ?? '';
  const start = url.indexOf('?');
  return start < 0 ? '' : url.slice(start + 1);
}

/** What ends the connection of a request. */
export function connectionOf(request: NodeRequest): { destroy(): void } | undefined {
  return 'stream' in request ? request.stream.session : request.socket;
}

/** Names request headers that the answer depends on, beside those that were named before. */
export function addVary(response: NodeResponse, names: string): void {
  const before = response.getHeader('vary');
  response.setHeader('vary', before === undefined ? names : `${String(before)}, ${names}`);
}

/**
 * Keeps proxies from holding back or changing what is sent bit by bit. nginx collects an answer in its buffers unless
 * it is told not to; others compress, which is the same for what comes slowly.
 */
export function setStreamHeaders(response: NodeResponse): void {
  response.setHeader('cache-control', 'no-store, no-transform');
  response.setHeader('x-accel-buffering', 'no');
}
