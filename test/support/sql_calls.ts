import assert from 'node:assert/strict';
import pg from 'pg';

/** What a run is asked for with, in the words of `baton.create_run`; what is left out is not named in the call. */
export type SqlRequest = Readonly<Record<string, unknown>>;

const TYPES: Readonly<Record<string, string>> = {
  pipeline: 'text',
  repository: 'text',
  labels: 'jsonb',
  input: 'jsonb',
  priority: 'integer',
  schedule_time: 'timestamptz',
  concurrency_key: 'text',
  max_attempts: 'integer',
  request_id: 'text',
  trace_parent: 'text',
};

/** Calls `baton.create_run` with named parameters. Objects go as JSON text; a text is taken for JSON text as it is. */
export async function createBySql(
  db: { query(text: string, values?: unknown[]): Promise<unknown> },
  request: SqlRequest = {},
): Promise<string> {
  const names = Object.keys(request);
  const values = Object.values(request).map((value) =>
    typeof value === 'object' && value !== null && !(value instanceof Date) ? JSON.stringify(value) : value,
  );
  const list = names.map((name, index) => `${name} => $${index + 1}::${TYPES[name] ?? 'unknown'}`);
  const answer = await db.query(`select baton.create_run(${list.join(', ')}) as id`, values);
  const [row] = (Array.isArray(answer) ? answer : (answer as pg.QueryResult).rows) as { id: string }[];
  assert.ok(row, 'create_run returned nothing');
  return row.id;
}

/** The error of a statement that PostgreSQL refused. */
export async function sqlFailure(work: Promise<unknown>): Promise<pg.DatabaseError> {
  const error: unknown = await work.then(
    () => assert.fail('the statement was expected to be refused'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof pg.DatabaseError, String(error));
  return error;
}

/** The parameters that create_run finds wrong, or none. */
export async function violatedParameters(work: Promise<unknown>): Promise<string[]> {
  let refused = false;
  await work.catch(() => (refused = true));
  if (!refused) return [];
  const error = await sqlFailure(work);
  assert.equal(error.code, '22023', error.message);
  const fields = [...error.message.matchAll(/(?:^|; )(\w+(?:\["(?:[^"\\]|\\.)*"\])?): /g)].map(
    (match) => match[1] ?? '',
  );
  assert.ok(fields.length > 0, `no parameter is named in: ${error.message}`);
  assert.ok(
    fields[0]?.startsWith(error.column ?? '-'),
    `${error.column} is not the first of ${fields.join(', ')}`,
  );
  return fields;
}
