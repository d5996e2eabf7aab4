import pg from 'pg';

/** A session of a writer or observer of its own, which gives up when the database is away. */
export async function connect(databaseUrl: string): Promise<pg.Client> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    connectionTimeoutMillis: 5000,
    query_timeout: 20_000,
    application_name: 'chaos writer',
  });
  client.on('error', () => undefined);
  await client.connect();
  return client;
}
