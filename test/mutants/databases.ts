/** What a server owes to databases that are set up, closed or led to in other ways than its own. */
import { edit, type Mutant } from './mutant.js';

const SESSION = 'dist/src/store/session.js';
const CONNECTIONS = 'dist/src/store/connections.js';
const STORE_ERROR = 'dist/src/store/store_error.js';
const CHECK = 'dist/src/store/session_check.js';
const LOCK = 'dist/src/store/migration_lock.js';

const HOSTILE = 'a server works where every setting is hostile';
const EACH = "each setting is Baton's, whatever the database, the role and the URL say";
const CLOSED = 'closes the database for writers, with the connections of servers, and opens it again';

/** Not on the list: neither sent nor looked at. */
const without = (name: string, value: string): Mutant => ({
  name: `a session is not sent ${name}`,
  edits: [edit(SESSION, `name: '${name}', value: '${value}'`, "name: 'geqo', value: 'on'")],
  testFile: 'server/odd_sessions',
  caughtBy: HOSTILE,
});

export const DATABASE_MUTANTS: readonly Mutant[] = [
  without('DateStyle', 'ISO, MDY'),
  without('array_nulls', 'on'),
  without('search_path', 'pg_catalog'),
  without('statement_timeout', '0'),
  without('extra_float_digits', '1'),
  {
    name: "options of the URL come behind Baton's",
    edits: [
      edit(
        SESSION,
        '[...(url.options === undefined ? [] : [url.options]), ...own]',
        '[...own, ...(url.options === undefined ? [] : [url.options])]',
      ),
    ],
    testFile: 'server/odd_sessions',
    caughtBy: EACH,
  },
  {
    name: 'what cannot be sent is not looked at',
    edits: [edit(CHECK, 'const unfit = CHECKED_SETTINGS.filter(differs(fitsPooled));', 'const unfit = [];')],
    testFile: 'server/odd_sessions',
    caughtBy: 'what cannot be sent is asked for by name: session_replication_role',
  },
  {
    name: 'a read-only session is an internal error',
    edits: [
      edit(STORE_ERROR, 'if (state === READ_ONLY_STATE)', 'if (false)'),
      edit(CONNECTIONS, 'if (!pooled && isReadOnly(client))', 'if (false)'),
    ],
    testFile: 'server/read_only',
    caughtBy: CLOSED,
  },
  {
    name: 'a ping does not ask whether anything can be written',
    edits: [
      edit('dist/src/store/sql/ping.js', 'if (row?.is_read_only === false)', 'if (row !== undefined)'),
      edit(CONNECTIONS, 'if (!pooled && isReadOnly(client))', 'if (false)'),
    ],
    testFile: 'server/read_only',
    caughtBy: CLOSED,
  },
  {
    name: 'a missing schema is an internal error',
    edits: [edit(STORE_ERROR, '3F000|42P01|', '')],
    testFile: 'server/read_only',
    caughtBy: 'takes rights, or the schema, and gives them back',
  },
  {
    name: 'a session with an outdated plan is kept',
    edits: [edit(STORE_ERROR, "code === '0A000' && routine === 'RevalidateCachedQuery'", 'false')],
    testFile: 'server/read_only',
    caughtBy: 'changes a table under kept plans',
  },
  {
    name: 'a holder that does nothing is waited for without end',
    edits: [edit(LOCK, 'waitedMs >= strandedMs && !sessions.some', 'false && !sessions.some')],
    testFile: 'server/starts',
    caughtBy: 'waits for a holder that is at work, and refuses one that does nothing, saying how to end it',
  },
  {
    name: 'a holder that is at work is not waited for',
    edits: [edit(LOCK, '!sessions.some(({ is_at_work }) => is_at_work)', 'true')],
    testFile: 'server/starts',
    caughtBy: 'waits for a holder that is at work, and refuses one that does nothing, saying how to end it',
  },
  {
    name: 'a migration that is broken off leaves its backend behind',
    edits: [edit('dist/src/store/migrate.js', "'select pg_terminate_backend($1::int)'", "'select $1::int'")],
    testFile: 'server/starts',
    caughtBy: 'obeys SIGTERM while a migration waits for a table, and leaves nothing of it',
  },
  {
    name: 'a start that waits for a table ignores a signal',
    edits: [edit('dist/src/server.js', "signal.addEventListener('abort', abortPools);", '')],
    testFile: 'server/starts',
    caughtBy: 'obeys SIGTERM while the service waits for a table',
  },
  {
    name: 'connections are made when they are needed first',
    edits: [edit('dist/src/server.js', '.then(() => pool.fill())', '')],
    testFile: 'db/pool',
    caughtBy: 'of the calls of a server has all its connections before anybody needs one',
  },
  {
    name: 'a pool is closed without a look at who opens connections',
    edits: [edit('dist/src/store/pool.js', 'await filled;', '')],
    testFile: 'db/pool',
    caughtBy: 'is closed while all its connections are opened',
  },
  {
    name: 'connections stay where not all can be had',
    edits: [edit('dist/src/store/pool.js', 'each.end(error === undefined)', 'each.end(true)')],
    testFile: 'server/your_postgresql',
    caughtBy: 'that may have fewer connections than a server keeps is enough while there is little to do',
  },
  {
    name: 'any encoding is taken',
    edits: [edit(CHECK, "encoding !== 'UTF8'", 'false')],
    testFile: 'server/starts',
    caughtBy: 'refuses a database that is not UTF8',
  },
  {
    name: 'a pooler that drops settings is taken for PostgreSQL',
    edits: [edit(CHECK, 'SESSION_SETTINGS.some(differs(', '[].some(differs(')],
    testFile: 'server/poolers',
    caughtBy: 'that drops settings silently is found out',
  },
  {
    name: 'migrations go through the pooler',
    edits: [
      edit(
        'dist/src/store/connect.js',
        'databaseUrl: listenUrl ?? databaseUrl, log, signal',
        'databaseUrl, log, signal',
      ),
    ],
    testFile: 'server/poolers',
    caughtBy: 'with a direct way beside it: migrates there, and all calls work',
  },
  {
    name: 'the time of an id is of the server',
    edits: [
      edit('dist/src/store/sql/create_runs.js', '(moment.id_start || i.id_end)::uuid', 'i.id_end::uuid'),
      edit(
        'dist/src/store/sql/create_runs.js',
        'return id.slice(ID_END_AT);',
        "return Date.now().toString(16).padStart(12, '0') + '-' + id.slice(ID_END_AT);",
      ),
      edit(
        'dist/src/store/sql/create_runs.js',
        'row.id.slice(ID_END_AT), row',
        "row.id.replace('-', ''), row",
      ),
    ],
    testFile: 'db/statements',
    caughtBy: "takes the time of an id from the database, whatever this server's clock says",
  },
];
