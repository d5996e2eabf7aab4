import type pg from 'pg';
import { pino } from 'pino';
import { systemClock } from '../../src/base/clock.js';
import { STAGE_DEFAULTS, type PipelineDefinition } from '../../src/run/pipeline.js';
import type { ScheduleDefinition } from '../../src/run/schedule.js';
import { Schedules } from '../../src/service/schedules.js';
import { createPool, type Pool, type Queryable } from '../../src/store/pool.js';
import { silent, type TestDatabase } from './database.js';
import { must } from './log_runs.js';
import { waitFor } from './wait.js';

/** The lock that a gate holds while it is closed. */
const GATE = 77_001;

/** A schedule that comes every second; a test names only what it is about. */
export function schedule(name: string, fields: Partial<ScheduleDefinition> = {}): ScheduleDefinition {
  return {
    name,
    cron: '* * * * * *',
    timeZone: 'UTC',
    repository: '',
    labels: {},
    input: undefined,
    priority: 0,
    concurrencyKey: '',
    maxAttempts: 0,
    ...fields,
  };
}

export function pipelineWith(name: string, ...schedules: ScheduleDefinition[]): PipelineDefinition {
  return {
    name,
    description: '',
    initialStatus: 'new',
    errorStatus: 'error',
    canceledStatus: 'canceled',
    stages: [{ name: 'work', processingStatus: 'working', doneStatus: 'done', ...STAGE_DEFAULTS }],
    schedules,
  };
}

/** What one server does about schedules, swept when the test says so. */
export interface Sweeper {
  readonly schedules: Schedules;
  readonly pool: Pool;
  /** What it has logged, one object a line. */
  readonly lines: readonly Record<string, unknown>[];
}

/**
 * @param name what its sessions are called
 * @param databaseUrl another way to the database
 */
export function sweeper(db: TestDatabase, name: string, databaseUrl = db.url): Sweeper {
  const pool = createPool({ databaseUrl, connections: 3, name, log: silent });
  const lines: Record<string, unknown>[] = [];
  const log = pino({}, { write: (line: string) => lines.push(JSON.parse(line) as Record<string, unknown>) });
  return { schedules: new Schedules({ pool, clock: systemClock, log }), pool, lines };
}

/** Stops the servers of one name between a run and the move of its schedule, as long as it is closed. */
export class Gate {
  readonly #client: pg.Client;
  readonly #name: string;

  private constructor(client: pg.Client, name: string) {
    this.#client = client;
    this.#name = name;
  }

  /** @param name what the sessions are called that are stopped */
  static async install(db: TestDatabase, name: string): Promise<Gate> {
    await db.pool.query(`
      create function public.gate() returns trigger language plpgsql as $$
      begin
        if current_setting('application_name') = ${literal(name)} then
          perform pg_advisory_xact_lock_shared(${GATE});
        end if;
        return new;
      end $$`);
    await db.pool.query(`
      create trigger gate before update of next_time on baton.schedules
      for each row execute function public.gate()`);
    return new Gate(await db.connect(), name);
  }

  async close(): Promise<void> {
    await this.#client.query('select pg_advisory_lock($1)', [GATE]);
  }

  async open(): Promise<void> {
    await this.#client.query('select pg_advisory_unlock($1)', [GATE]);
  }

  /** The sessions that stand before it. */
  async waiting(): Promise<number[]> {
    const { rows } = await this.#client.query<{ pid: number }>(
      `select a.pid from pg_stat_activity a
       where a.datname = current_database() and a.application_name = $1 and a.wait_event = 'advisory'`,
      [this.#name],
    );
    return rows.map(({ pid }) => pid);
  }

  async untilWaiting(timeoutMs = 10_000): Promise<number> {
    let pids: number[] = [];
    await waitFor(
      async () => (pids = await this.waiting()).length > 0,
      'a server to stand between a run and the move of its schedule',
      timeoutMs,
    );
    return must(pids[0], 'a session');
  }

  /** Breaks the connection of whoever stands before it. */
  async breakWaiting(): Promise<void> {
    await this.#client.query('select pg_terminate_backend($1)', [await this.untilWaiting()]);
  }
}

function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`;
}

/** Makes the next tick of a schedule one that was due some time ago; the time is cut to whole seconds. */
export async function makeDue(db: Queryable, name: string, agoMs: number): Promise<Date> {
  const [row] = await db.query<{ next_time: Date }>(
    `update baton.schedules s
     set next_time = i.at, due_time = i.at
     from (select date_trunc('second', clock_timestamp() - $2::int * interval '1 millisecond') as at) i
     where s.name = $1 returning s.next_time`,
    [name, agoMs],
  );
  return must(row, `a schedule ${name}`).next_time;
}

export interface TickRow {
  readonly id: string;
  readonly schedule_time: Date;
  readonly request_id: string;
}

/** The runs that a schedule has, in the order of their ticks. */
export async function ticksOf(db: Queryable, name: string): Promise<TickRow[]> {
  return db.query<{ id: string; schedule_time: Date; request_id: string }>(
    `select r.id, r.schedule_time, r.request_id from baton.runs r
     where r.labels ->> 'baton.schedule' = $1 order by r.schedule_time, r.id`,
    [name],
  );
}

export async function nextTimeOf(db: Queryable, name: string): Promise<Date> {
  const rows = await db.query<{ next_time: Date }>(
    'select s.next_time from baton.schedules s where s.name = $1',
    [name],
  );
  return must(rows[0], `a schedule ${name}`).next_time;
}

/** Says which seconds between the first and the last tick have no run, or more than one: none in a sound schedule. */
export function wrongSeconds(ticks: readonly TickRow[]): string[] {
  const counts = new Map<number, number>();
  for (const { schedule_time } of ticks) {
    const time = schedule_time.getTime();
    counts.set(time, (counts.get(time) ?? 0) + 1);
  }
  const [first, last] = [ticks[0]?.schedule_time.getTime() ?? 0, ticks.at(-1)?.schedule_time.getTime() ?? 0];
  const wrong: string[] = [];
  for (let time = first; time <= last; time += 1000) {
    const count = counts.get(time) ?? 0;
    if (count !== 1) wrong.push(`${new Date(time).toISOString()} has ${count} runs`);
    counts.delete(time);
  }
  return [
    ...wrong,
    ...[...counts.keys()].map((time) => `${new Date(time).toISOString()} is no whole second`),
  ];
}
