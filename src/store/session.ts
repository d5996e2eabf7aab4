/**
 * What every session of Baton depends on, in one place. Roles, databases and URLs can set all of it otherwise, and a
 * session that differs gives other answers or none: a time in the style of a country was read as no time, after the
 * commit. What is sent when a session begins goes before what its role or its database sets, and costs no round trip.
 */
import type pg from 'pg';
import { parseIntoClientConfig } from 'pg-connection-string';

export interface SessionSetting {
  readonly name: string;
  /** As `pg_settings` shows it: without units. */
  readonly value: string;
  readonly why: string;
  /**
   * What a session that cannot be sent settings, behind a transaction pooler, has to have: exactly this value when absent,
   * any that matches, or any at all.
   */
  readonly pooled?: RegExp | 'any';
}

const ANY = 'any';

/**
 * Of the settings that a user may change, those that change what a statement does, means or answers. Left alone on
 * purpose: `synchronous_commit` (how durable a commit is, is the owner's choice), `default_transaction_read_only` (an
 * owner's way to close a database, so it is obeyed; a session that is read-only counts as a database that is away), `role`, tablespaces, access methods and memory
 * (likewise theirs), costs and methods of the planner (tuning; pool.ts says which plans rest on some), and what only
 * formats types that Baton does not use: money, XML, numbers by locale, text search.
 */
export const SESSION_SETTINGS: readonly SessionSetting[] = [
  { name: 'DateStyle', value: 'ISO, MDY', why: 'times are read as ISO', pooled: /^ISO\b/ },
  { name: 'IntervalStyle', value: 'postgres', why: 'durations are read in this style', pooled: ANY },
  { name: 'TimeZone', value: 'UTC', why: 'times in UTC are read quickest', pooled: ANY },
  { name: 'extra_float_digits', value: '1', why: 'numbers are exact', pooled: /^[1-3]$/ },
  { name: 'bytea_output', value: 'hex', why: 'hashes and tokens are written so', pooled: ANY },
  { name: 'client_encoding', value: 'UTF8', why: 'texts are UTF-8' },
  { name: 'array_nulls', value: 'on', why: 'batches are sent as arrays, in which NULL is no text' },
  { name: 'standard_conforming_strings', value: 'on', why: 'a backslash in a text is a backslash' },
  { name: 'transform_null_equals', value: 'off', why: '"= null" is not "is null"' },
  { name: 'quote_all_identifiers', value: 'off', why: 'names are read back as they are', pooled: ANY },
  { name: 'search_path', value: 'pg_catalog', why: 'no function takes the place of another', pooled: ANY },
  {
    name: 'row_security',
    value: 'on',
    why: 'a policy is applied, where off fails the statement',
    pooled: ANY,
  },
  {
    name: 'default_transaction_isolation',
    value: 'read committed',
    why: 'a statement that waited for a lock looks again; others fail',
  },
  { name: 'default_transaction_deferrable', value: 'off', why: 'no snapshot waits', pooled: ANY },
  { name: 'statement_timeout', value: '0', why: 'Baton gives statements up by itself', pooled: ANY },
  {
    name: 'idle_in_transaction_session_timeout',
    value: '0',
    why: 'Baton sets it where it matters',
    pooled: ANY,
  },
  { name: 'idle_session_timeout', value: '0', why: 'whoever listens is idle', pooled: ANY },
  { name: 'lock_timeout', value: '0', why: 'each kind of session has its own', pooled: ANY },
  { name: 'plan_cache_mode', value: 'auto', why: 'pool.ts says which plans are kept', pooled: ANY },
  {
    name: 'jit',
    value: 'off',
    // The planner cannot know that of partitions without statistics: a page of the log took 37 ms with and 0.3 ms without.
    why: 'every statement is short',
    pooled: ANY,
  },
];

/** Only a superuser may send the first, and PostgreSQL 15 does not know the second: looked at when a server starts. */
export const CHECKED_SETTINGS: readonly SessionSetting[] = [
  {
    name: 'session_replication_role',
    value: 'origin',
    why: 'triggers write the log',
    pooled: /^(origin|local)$/,
  },
  { name: 'transaction_timeout', value: '0', why: 'states are read in one transaction' },
];

export interface SessionOptions {
  readonly databaseUrl: string;
  /** What it is called in `pg_stat_activity`, unless the URL says otherwise. */
  readonly name: string;
  /** More settings of this kind of session, or other values. */
  readonly settings?: Readonly<Record<string, string>>;
  /** The URL is that of a transaction pooler, which takes no settings. */
  readonly pooled?: boolean;
}

/**
 * How a session is opened: where the URL says, with the URL's options, and with Baton's settings behind them, which win.
 *
 * @throws Error when the URL, or a certificate that it names, cannot be read; it does not show the URL
 */
export function sessionConfig({ databaseUrl, name, settings, pooled }: SessionOptions): pg.ClientConfig {
  const url = parseIntoClientConfig(databaseUrl);
  const sent: Record<string, string> = {};
  if (pooled !== true) {
    for (const setting of SESSION_SETTINGS) sent[setting.name] = setting.value;
    Object.assign(sent, settings);
  }
  const own = Object.entries(sent).map(([key, value]) => `-c ${key}=${escapeOption(value)}`);
  const options = [...(url.options === undefined ? [] : [url.options]), ...own].join(' ');
  return {
    // By name: what else a URL can say (timeouts, sizes of a pool) is Baton's to decide.
    host: url.host,
    port: url.port,
    user: url.user,
    password: url.password,
    database: url.database,
    ...(url.ssl === undefined ? {} : { ssl: url.ssl }),
    ...(url.sslnegotiation === undefined ? {} : { sslnegotiation: url.sslnegotiation }),
    application_name: url.application_name ?? name,
    options,
  };
}

/** What is wrong with a database URL; undefined when nothing is. It does not show the URL, which has a password. */
export function problemOfUrl(databaseUrl: string): string | undefined {
  if (!/^postgres(ql)?:\/\//.test(databaseUrl)) return 'must be a postgresql:// URL';
  let host: string | undefined;
  try {
    ({ host } = sessionConfig({ databaseUrl, name: '' }));
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    return path === undefined
      ? 'must be a postgresql:// URL; in names and passwords, other characters than letters and digits may have to be percent-encoded'
      : `names a file that cannot be read: ${path} (${code})`;
  }
  if (host?.includes(',') !== true) return undefined;
  return 'must have one host: a name or a proxy that leads to the primary';
}

/** In startup options a space ends a value, unless a backslash is before it. */
function escapeOption(value: string): string {
  return value.replace(/[\\ ]/g, '\\$&');
}
