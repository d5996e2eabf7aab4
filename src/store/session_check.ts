import type pg from 'pg';
import { CHECKED_SETTINGS, SESSION_SETTINGS, type SessionSetting } from './session.js';

/** PostgreSQL 15, as `server_version_num` counts. */
const OLDEST_VERSION = 150_000;

/** The database cannot be used by this program, now or at all. */
export class DatabaseUnusableError extends Error {
  override readonly name = 'DatabaseUnusableError';
}

/** The URL leads to a transaction pooler, where a session of Baton's own is needed. */
export class PoolerError extends DatabaseUnusableError {}

/** Nothing can be written there at the moment. */
export class ReadOnlyError extends DatabaseUnusableError {}

const FACTS = `
select
  current_setting('server_version_num')::int as version,
  current_setting('server_encoding') as encoding,
  current_setting('transaction_read_only') = 'on' as is_read_only,
  pg_is_in_recovery() as is_standby,
  quote_ident(current_user) as role,
  quote_ident(current_database()) as database,
  (select system_identifier::text from pg_control_system()) as cluster,
  array(
    select array[s.name, s.setting] from pg_settings s where lower(s.name) = any ($1::text[])
  ) as settings`;

interface Facts {
  version: number;
  encoding: string;
  is_read_only: boolean;
  is_standby: boolean;
  role: string;
  database: string;
  cluster: string;
  settings: [string, string][];
}

/** Which database it is, whatever way leads there. */
export interface DatabaseIdentity {
  readonly cluster: string;
  readonly name: string;
}

/**
 * Looks whether a session that was just opened is one that Baton can work with.
 *
 * @param pooled whether it was sent no settings, because the way leads through a transaction pooler
 * @throws DatabaseUnusableError that says what to do
 */
export async function checkSession(client: pg.Client, pooled: boolean): Promise<DatabaseIdentity> {
  const wanted = [...SESSION_SETTINGS, ...CHECKED_SETTINGS];
  const names = wanted.map(({ name }) => name.toLowerCase());
  const { rows } = await client.query<Facts>(FACTS, [names]);
  const [facts] = rows;
  if (facts === undefined) throw new Error('a session says nothing about itself');
  refuseDatabase(facts);
  const values = new Map(facts.settings.map(([name, value]) => [name.toLowerCase(), value]));
  const differs =
    (fits: (setting: SessionSetting, value: string) => boolean) => (setting: SessionSetting) => {
      const value = values.get(setting.name.toLowerCase());
      return value !== undefined && !fits(setting, value);
    };
  const unfit = CHECKED_SETTINGS.filter(differs(fitsPooled));
  if (pooled) unfit.unshift(...SESSION_SETTINGS.filter(differs(fitsPooled)));
  else if (SESSION_SETTINGS.some(differs(({ value }, found) => value === found))) {
    throw new PoolerError('settings that were sent when the session began were dropped on the way');
  }
  if (unfit.length > 0) throw new DatabaseUnusableError(settingsText(facts, unfit, values, pooled));
  return { cluster: facts.cluster, name: facts.database };
}

function refuseDatabase({ version, encoding, is_read_only, is_standby }: Facts): void {
  if (version < OLDEST_VERSION) {
    throw new DatabaseUnusableError(
      `the database is PostgreSQL ${Math.floor(version / 10_000)}; Baton needs 15 or newer`,
    );
  }
  if (encoding !== 'UTF8') {
    throw new DatabaseUnusableError(
      `the encoding of the database is ${encoding}; Baton needs UTF8, which keeps every text as it is. Make one with ` +
        `"create database baton encoding 'UTF8' template template0"`,
    );
  }
  if (!is_read_only) return;
  throw new ReadOnlyError(
    is_standby
      ? 'the database is a standby, which is read-only'
      : 'the database is read-only: default_transaction_read_only is on',
  );
}

function fitsPooled({ value, pooled }: SessionSetting, found: string): boolean {
  return pooled === 'any' || (pooled === undefined ? value === found : pooled.test(found));
}

/** Set for the role in the database, since that goes before what is set for one of the two. */
function settingsText(
  { role, database }: Facts,
  unfit: readonly SessionSetting[],
  values: ReadonlyMap<string, string>,
  pooled: boolean,
): string {
  const found = unfit.map(({ name, why }) => `${name} is '${values.get(name.toLowerCase())}' (${why})`);
  const run = unfit.map(
    ({ name, value }) => `alter role ${role} in database ${database} set ${name} = '${value}';`,
  );
  return (
    `sessions of the role ${role} have settings that Baton cannot work with: ${found.join(', ')}. Run: ${run.join(' ')}` +
    (pooled ? ' Then let the pooler open new connections (PgBouncer: RECONNECT).' : '')
  );
}
