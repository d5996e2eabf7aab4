/**
 * How claims bear a long backlog, and somebody who keeps VACUUM from its work.
 *
 * Each system is filled with a backlog, and then claims job after job while each is completed and replaced by another.
 * First with nothing in the way; then, in turn, over an old snapshot, an open transaction id and the slot of a standby
 * that has gone away; after each is released, until claims are as quick as at first.
 */
import type pg from 'pg';
import { inTurns, valueOf, type Bench, type Context, type Goal, type Turn } from './support/bench.js';
import { REPLACED } from './support/claim_loop.js';
import { execute } from './support/cluster.js';
import { HOLDS, hold } from './support/holds.js';
import { pause } from './support/loops.js';
import type { Measures } from './support/stats.js';
import { System, type SystemOptions } from './support/system.js';

interface Subject {
  readonly options: SystemOptions;
  /** The table with the jobs that wait, as a pattern of `schema.table`. */
  readonly table: string;
}

const SUBJECTS: Readonly<Record<string, Subject>> = {
  Baton: { options: { client: 'baton', server: 'baton_server' }, table: '^baton[.]runs$' },
  'graphile-worker': {
    options: { client: 'graphile_worker' },
    table: '^graphile_worker[.]_private_jobs$',
  },
  'pg-boss': { options: { client: 'pg_boss' }, table: '^pgboss[.]job(_common)?$' },
};

/** While VACUUM is kept from its work, claims may cost so many times what they cost at first. */
const HELD = 1.5;
/** After a release claims count as recovered within this factor of those at first. */
const RECOVERED = 1.1;
/** Statistics of backends reach the tables that are read here within a second. */
const STATISTICS_MS = 1100;
const RECOVERY_WINDOW_SECONDS = 1;
const SMOKE = { statisticsMs: 50, windowSeconds: 0.2 };
const NO_LIMIT = 1e6;
/** A cell that takes longer will never end: its backlog has run dry. */
const CELL_SECONDS_MAX = 3600;
const SMOKE_CELL_SECONDS_MAX = 30;
const CLEAN = 'clean';

async function one<Row extends pg.QueryResultRow>(databaseUrl: string, sql: string): Promise<Row> {
  const [row] = await execute<Row>(databaseUrl, sql);
  if (row === undefined) throw new Error('the query has no row');
  return row;
}

/** Claims, and what they cost the database. */
async function cell(context: Context, system: System, { table }: Subject): Promise<Measures> {
  const { databaseUrl } = system;
  await execute(databaseUrl, 'select pg_stat_statements_reset()');
  const seconds = context.smoke ? SMOKE_CELL_SECONDS_MAX : CELL_SECONDS_MAX;
  const wanted = context.option('claims');
  const params = { claims: wanted, inFlight: context.option('in-flight'), seconds };
  const claims = await system.do('claims', params);
  const count = claims['count'] ?? Number.NaN;
  if (!(count >= wanted)) throw new Error(`${count} of ${wanted} jobs were claimed in ${seconds} s`);
  await pause(context.smoke ? SMOKE.statisticsMs : STATISTICS_MS);
  // Every system claims by a statement that skips what others have locked.
  const statements = await one<{ buffers: number; ms: number }>(
    databaseUrl,
    `select coalesce(sum(shared_blks_hit + shared_blks_read), 0)::float8 as buffers,
       coalesce(sum(total_exec_time), 0)::float8 as ms
     from pg_stat_statements
     where query ilike '%skip locked%' and dbid = (select oid from pg_database where datname = current_database())`,
  );
  const size = await one<{ dead: number; mib: number }>(
    databaseUrl,
    `select sum(n_dead_tup)::float8 as dead, (sum(pg_indexes_size(relid)) / 1048576)::float8 as mib
     from pg_stat_all_tables where schemaname || '.' || relname ~ '${table}'`,
  );
  return {
    ...claims,
    buffersPerClaim: statements.buffers / count,
    databaseMsPerClaim: statements.ms / count,
    deadTuples: size.dead,
    indexMiB: size.mib,
  };
}

/** Seconds from now until claims are as quick as at first; the limit when they were not by then. */
async function recovery(context: Context, system: System, cleanMs: number): Promise<number> {
  const limit = context.option('recovery-limit');
  const started = performance.now();
  const window = context.smoke ? SMOKE.windowSeconds : RECOVERY_WINDOW_SECONDS;
  const seconds = (): number => (performance.now() - started) / 1000;
  while (seconds() < limit) {
    const params = { claims: NO_LIMIT, inFlight: context.option('in-flight'), seconds: window };
    const { p50Ms = Number.NaN } = await system.do('claims', params);
    if (p50Ms <= cleanMs * RECOVERED) return seconds();
  }
  return limit;
}

function turn(context: Context, name: string, subject: Subject, backlog: number): Turn {
  const { progress } = context;
  const row = (phase: string): string => `${name}, backlog ${backlog}, ${phase}`;
  return async () => {
    const system = await System.start(context, subject.options);
    try {
      await execute(system.databaseUrl, 'create extension pg_stat_statements');
      const total = backlog + 2 * REPLACED;
      await system.do('createBatches', { total, batch: 1000, inFlight: 4 });
      await system.settle();
      progress('filled; warming up');
      await system.do('claims', { claims: 10 * REPLACED, inFlight: 8, seconds: NO_LIMIT });
      progress(CLEAN);
      const rows: Record<string, Measures> = { [row(CLEAN)]: await cell(context, system, subject) };
      progress(JSON.stringify(rows[row(CLEAN)]));
      const cleanMs = rows[row(CLEAN)]?.['p50Ms'] ?? Number.NaN;
      for (const kind of HOLDS) {
        progress(kind);
        const held = await hold(kind, system.databaseUrl);
        let measured: Measures;
        try {
          measured = await cell(context, system, subject);
        } finally {
          await held.release();
        }
        rows[row(kind)] = {
          ...measured,
          ofClean: (measured['p50Ms'] ?? Number.NaN) / cleanMs,
          recoverySeconds: await recovery(context, system, cleanMs),
        };
        progress(JSON.stringify(rows[row(kind)]));
      }
      return rows;
    } finally {
      await system.stop();
    }
  };
}

export const bench: Bench = {
  options: {
    claims: { full: 20_000, smoke: 100 },
    'in-flight': { full: 8, smoke: 8 },
    'small-backlog': { full: 10, smoke: 10 },
    'large-backlog': { full: 1_000_000, smoke: 2000 },
    'recovery-limit': { full: 60, smoke: 1 },
  },
  // Also with ten times the large backlog; without the peers.
  flags: ['full', 'baton-only'],
  runs: 1,
  settings: { shared_preload_libraries: 'pg_stat_statements' },
  async run(context) {
    const { option, flag } = context;
    const [small, large] = [option('small-backlog'), option('large-backlog')];
    const backlogs = [small, large, ...(flag('full') ? [10 * large] : [])];
    const subjects = Object.entries(SUBJECTS).filter(([name]) => name === 'Baton' || !flag('baton-only'));
    const cases = backlogs.flatMap((backlog) =>
      subjects.map(
        ([name, subject]) => [`${name}, ${backlog}`, turn(context, name, subject, backlog)] as const,
      ),
    );
    const rows = await inTurns(context, Object.fromEntries(cases));
    const p50 = (name: string, backlog: number, phase: string): number =>
      valueOf(rows, `${name}, backlog ${backlog}, ${phase}`, 'p50Ms');
    const ratios = backlogs
      .slice(1)
      .flatMap((backlog) =>
        subjects.map(([name]): [string, number] => [
          `${name}: claim p50, backlog ${backlog} / ${small}`,
          p50(name, backlog, CLEAN) / p50(name, small, CLEAN),
        ]),
      );
    const goals = backlogs.flatMap((backlog) =>
      HOLDS.flatMap((kind): Goal[] => {
        const of = (phase: string, measure: string): number =>
          valueOf(rows, `Baton, backlog ${backlog}, ${phase}`, measure);
        const ofClean = (measure: string): number => of(kind, measure) / of(CLEAN, measure);
        const text = `Baton, backlog ${backlog}, ${kind}`;
        return [
          { text: `${text}: p99 / that of the clean phase`, value: ofClean('p99Ms'), atMost: HELD },
          {
            text: `${text}: buffers per claim / those of the clean phase`,
            value: ofClean('buffersPerClaim'),
            atMost: HELD,
          },
          {
            text: `${text}: seconds to recover from it`,
            value: of(kind, 'recoverySeconds'),
            atMost: option('recovery-limit') * 0.999,
          },
        ];
      }),
    );
    return {
      rows,
      ratios: Object.fromEntries(ratios),
      goals,
      notes: [
        `A backlog is kept within ${2 * REPLACED} jobs more than it is called. recoverySeconds is ${option('recovery-limit')} where claims had not come back to ${RECOVERED} times their first p50 by then.`,
        'buffersPerClaim and databaseMsPerClaim are of all statements with SKIP LOCKED, by pg_stat_statements, which is loaded for all systems alike.',
      ],
    };
  },
};
