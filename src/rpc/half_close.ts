import type { IncomingMessage, ServerResponse } from 'node:http';
import { RPC_LIMITS } from './limits.js';

/** What Node and its HTTP server have at most on a socket by themselves. */
const DEFAULT_LISTENERS = 10;

/**
 * A client of HTTP/1.1 may close its side after the request and still read the answer. One that has gone closes it in
 * the same way, and its stream or its waiting claim has to end. So the client is sent bytes that mean nothing: the
 * machine of one that has gone answers them with a reset, and the next bytes find the connection broken.
 *
 *     end of the client's side ─▶ probe ─▶ probe ─▶ probe ─▶ it is there, and is waited for
 *                                   └───────┴─▶ reset: the response is closed, the call canceled
 *
 * Before the headers they are an interim response, which every client of HTTP/1.1 has to pass over; between two
 * chunks a zero before the size of the next one. There is no such thing in HTTP/1.0: that client has gone.
 */
export function watchHalfClose(request: IncomingMessage, response: ServerResponse): void {
  const { socket } = request;
  let timers: NodeJS.Timeout[] = [];
  const onEnd = (): void => {
    const probe = (): void => sendProbe(request, response);
    timers = RPC_LIMITS.halfClosedProbesMs.map((delayMs) => setTimeout(probe, delayMs));
  };
  // Each request that the client has sent without waiting for answers has one; Node warns above ten.
  socket.setMaxListeners(RPC_LIMITS.requestsPipelined + DEFAULT_LISTENERS);
  socket.once('end', onEnd);
  response.once('close', () => {
    socket.off('end', onEnd);
    for (const timer of timers) clearTimeout(timer);
  });
}

function sendProbe({ socket, httpVersionMinor }: IncomingMessage, response: ServerResponse): void {
  // The answer to an earlier request is on its way, or the last bytes of this one are: they find out as well.
  if (response.socket !== socket || response.writableEnded || socket.writableNeedDrain) return;
  if (httpVersionMinor === 0) socket.destroy();
  else if (!response.headersSent) response.writeContinue();
  else if (response.chunkedEncoding) {
    // Node may still hold the headers back until there is a body to send with them.
    response.flushHeaders();
    socket.write('0');
  }
}
