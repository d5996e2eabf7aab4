import { Client } from 'pg';
import { SUPERUSER } from './cluster.js';
import { EmbeddedPostgresError, errorMessage } from './errors.js';
import { LOOPBACK } from './port.js';

/** A local connection takes milliseconds; a server that says it is ready and does not answer is broken. */
const CONNECT_TIMEOUT_MS = 10_000;
const DATABASE = 'baton';

export function databaseUrl(port: number, password: string, database: string = DATABASE): string {
  return `postgres://${SUPERUSER}:${password}@${LOOPBACK}:${port}/${database}`;
}

/** Creates the database at the first start. It doubles as the proof that port and password are right. */
export async function ensureDatabase(port: number, password: string): Promise<void> {
  const client = new Client({
    connectionString: databaseUrl(port, password, 'postgres'),
    connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
    query_timeout: CONNECT_TIMEOUT_MS,
  });
  // An error that comes outside a query is reported by the next query, too.
  client.on('error', () => {});
  try {
    await client.connect();
    const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } catch (error) {
    throw new EmbeddedPostgresError(
      `The embedded PostgreSQL on port ${port} runs but cannot be used: ${errorMessage(error)}. If its password was ` +
        'changed, delete the file postgres.password in the data directory to have it reset.',
      { cause: error },
    );
  } finally {
    await client.end().catch(() => {});
  }
}
