import type { Http2Server } from 'node:http2';
import type { Server } from '@grpc/grpc-js';

/**
 * The HTTP/2 servers below a grpc-js server that is bound, one for each address. grpc-js shows them to nobody, and has
 * no limits for what connections do with their streams: this is the one place that reaches below. When an upgrade of
 * grpc-js has moved them, a server does not start.
 */
export function http2ServersOf(server: Server): readonly Http2Server[] {
  const { http2Servers } = server as unknown as { readonly http2Servers?: unknown };
  const found = http2Servers instanceof Map ? [...(http2Servers as Map<Http2Server, unknown>).keys()] : [];
  if (found.length === 0 || !found.every((http2) => http2.listenerCount('stream') > 0))
    throw new Error('this version of @grpc/grpc-js has its HTTP/2 servers elsewhere: it cannot be guarded');
  return found;
}
