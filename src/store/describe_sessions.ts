import type pg from 'pg';

/** A session of the database as an operator has to know it, to find or to end it. */
export interface SessionDescription {
  readonly pid: number;
  readonly application: string;
  readonly role: string;
  readonly address: string;
  readonly state: string;
  /** A statement is running in it, or was until a moment ago; unknown, and so false, to a role that may not see that. */
  readonly is_at_work: boolean;
}

const SQL = `
select
  s.pid,
  coalesce(nullif(a.application_name, ''), 'unknown') as application,
  coalesce(a.usename::text, 'unknown') as role,
  case
    when a.client_addr is not null then host(a.client_addr) || ':' || a.client_port
    when a.client_port = -1 then 'a socket of its machine'
    else 'unknown'
  end as address,
  coalesce(a.state, 'unknown') as state,
  coalesce(a.state = 'active' or a.state_change > clock_timestamp() - interval '5 seconds', false) as is_at_work
from (select distinct pid from unnest($1::int[]) as pid) s
left join pg_stat_activity a on a.pid = s.pid
order by s.pid`;

export async function describeSessions(
  client: pg.Client,
  processIds: readonly number[],
): Promise<SessionDescription[]> {
  return (await client.query<SessionDescription>(SQL, [processIds])).rows;
}

/** For a line of the log. */
export function sessionText({ pid, application, role, address, state }: SessionDescription): string {
  return `process ${pid} (${application}, role ${role}, from ${address}, ${state})`;
}
