/**
 * A program that runs one embedded PostgreSQL, for tests that kill their server, run it as another user or
 * start two at once. Its only argument is JSON of the options. It prints one line of JSON: `{url, pid}` or
 * `{error}`. SIGTERM stops it in order; `exitWhenReady` ends it without a stop.
 */
import { createLogger } from '../../src/base/log.js';
import {
  startEmbeddedPostgres,
  type EmbeddedPostgresOptions,
} from '../../src/store/embedded/embedded-postgres.js';

type ChildOptions = Omit<EmbeddedPostgresOptions, 'log' | 'signal'> & { exitWhenReady?: boolean };

const { exitWhenReady, ...options }: ChildOptions = JSON.parse(process.argv[2] ?? '{}');
try {
  const postgres = await startEmbeddedPostgres({ ...options, log: createLogger('silent') });
  process.once('SIGTERM', () => void postgres.stop().then(() => process.exit(0)));
  console.log(JSON.stringify({ url: postgres.url, pid: postgres.pid }));
  if (exitWhenReady === true) process.exit(3);
} catch (error) {
  console.log(JSON.stringify({ error: error instanceof Error ? error.message : String(error) }));
}
