import { Code, ConnectError } from '@connectrpc/connect';
import { WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { reasonOf, WatchConnection } from './watch_connection.js';
import { finalError, WatchProtocolError, WatchTokenError } from './watch_errors.js';
import { WatchRetry } from './watch_retry.js';
import { WatchSession } from './watch_session.js';
import type { WatchItem, WatchRunsOptions, WatchServer } from './watch_types.js';

/**
 * Watches runs: every committed change that matches, in commit order, each exactly once, for as long as the reader
 * wants. It reconnects, on any of the servers, and goes on from the last message whose items were all taken, and it
 * holds every message against the promises of the stream.
 *
 *     for await (const item of watchRuns({ servers, after: await load() })) {
 *       if (item.kind === 'event') await handleAndStore(item.run, item.resumeToken);
 *     }
 *
 * A reader that stores the token in the same transaction as what it did for an item handles each change exactly once.
 * The stream is read no faster than the items are taken. It returns only with `untilTerminal`.
 *
 * @throws WatchProtocolError when a server breaks a promise of the stream
 * @throws WatchTokenError when no server can go on from the token, unless `onTokenLost` is `restart-with-state`
 * @throws ConnectError when the request is refused, and after `giveUpAfterMs`
 * @throws the reason of `signal`; a non-error is wrapped
 */
export async function* watchRuns(options: WatchRunsOptions): AsyncGenerator<WatchItem, void, undefined> {
  const servers = listServers(options.servers);
  const session = new WatchSession(options);
  const retry = new WatchRetry(servers.length, options);
  for (;;) {
    const server = servers[retry.server];
    if (server === undefined) throw new TypeError('servers must name at least one');
    const connection = new WatchConnection(server, session.begin(), options);
    let failure: unknown;
    try {
      for (let message = await connection.next(); message !== undefined; message = await connection.next()) {
        yield* session.accept(message);
        if (message.kind !== WatchKind.OPENED) retry.succeeded();
      }
      session.checkEnd();
      if (options.untilTerminal === true) return;
      failure = new ConnectError('the server has ended the stream', Code.Unavailable);
    } catch (error) {
      failure = recover(error, session, options);
    } finally {
      connection.close();
    }
    await retry.wait(failure);
  }
}

/** Gives the error of a stream that may be opened again, and throws any other. */
function recover(error: unknown, session: WatchSession, options: WatchRunsOptions): unknown {
  if (options.signal?.aborted === true) throw reasonOf(options.signal);
  if (error instanceof WatchProtocolError) throw error;
  const final = finalError(error);
  if (final instanceof WatchTokenError && options.onTokenLost === 'restart-with-state') {
    session.restartWithState(final);
    return final;
  }
  if (final !== undefined) throw final;
  return error;
}

function listServers(servers: WatchRunsOptions['servers']): readonly WatchServer[] {
  return Array.isArray(servers) ? (servers as readonly WatchServer[]) : [servers as WatchServer];
}
