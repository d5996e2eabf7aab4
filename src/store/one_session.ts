import pg from 'pg';
import { destroySocket } from './watchdog.js';

/** What a peer that has gone silent gets to answer a goodbye. */
const GOODBYE_MS = 1000;

/**
 * Opens a session, works in it and ends it. Aborting the signal breaks it at any moment, also one that is only being made.
 *
 * @throws the signal's reason when it was aborted; else what connecting or the work has thrown
 */
export async function inSession<T>(
  config: pg.ClientConfig,
  signal: AbortSignal,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const client = new pg.Client(config);
  // What breaks is told by the statement that is under way, or by the next one.
  client.on('error', () => undefined);
  const cut = (): void => destroySocket(client);
  signal.addEventListener('abort', cut);
  try {
    await client.connect();
    return await work(client);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', cut);
    const timer = setTimeout(cut, signal.aborted ? 0 : GOODBYE_MS);
    await client.end().catch(() => undefined);
    clearTimeout(timer);
  }
}
