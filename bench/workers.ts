/**
 * What workers wait for: how soon a dead worker's run is claimed again, how soon a commit elsewhere wakes a waiting
 * ClaimNext, and what many waiting calls cost.
 *
 *     node dist/bench/workers.js [--kills 40] [--wakes 200] [--waiters 10000]
 *
 * Two servers in processes of their own and a durable PostgreSQL, all on this machine. Times are from the database's
 * clock (the end of a lease, `run_events.append_time` just before a commit) to the commit of the next claim, or to the
 * moment the client has the answer. The waiting calls are counted in `ClaimNext` statements by a trigger that fires for
 * each, also for one that claims nothing, and in transactions by `pg_stat_database`.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { cpus, tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import pg from 'pg';
import { createLogger } from '../src/base/log.js';
import { startEmbeddedPostgres } from '../src/store/embedded/embedded-postgres.js';
import { claimStatements, countClaims, Waiters } from '../test/support/claim_waiters.js';
import { connectCalls, type CallConnection } from '../test/support/chaos_calls.js';
import { ANY_PORT, ServerProcess } from '../test/support/process.js';
import { waitFor } from '../test/support/wait.js';

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '40' },
    wakes: { type: 'string', default: '200' },
    waiters: { type: 'string', default: '10000' },
  },
});
const [kills, wakes, waiterCount] = [Number(values.kills), Number(values.wakes), Number(values.waiters)];
const IDLE_SECONDS = 10;
const WAIT_MS = 50_000;

interface Spread {
  readonly samples: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

function spread(samples: readonly number[]): Spread {
  const sorted = [...samples].sort((a, b) => a - b);
  const at = (share: number): number => {
    const value = sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
    return Math.round(value * 10) / 10;
  };
  return { samples: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}

const nowMs = (): number => performance.timeOrigin + performance.now();

const NO_BACKOFF = { initial: {} };

/** Workers that take a run and are never heard of again, beside one that waits for what they leave. */
async function measureKills(
  { jobs, pipelines }: CallConnection,
  sql: pg.Client,
  name: string,
  backoff?: typeof NO_BACKOFF,
): Promise<Spread> {
  const stage = { name: 's', processingStatus: 'at', doneStatus: 'done', maxAttempts: 100, backoff };
  await pipelines.putPipeline({ pipeline: { name, stages: [stage] } });
  const target = { pipeline: name, stage: 's' };
  await jobs.batchCreateRuns({ requests: Array.from({ length: kills }, () => ({ pipeline: name })) });
  for (let left = kills; left > 0; left -= 1) {
    // Spread over the second in which ended leases are looked for.
    await pause(Math.random() * 50);
    await jobs.claimNext({ ...target, leaseDuration: { seconds: 2n } });
  }
  const again = { ...target, wait: { seconds: 20n }, leaseDuration: { seconds: 600n } };
  const claimed = await Promise.all(Array.from({ length: kills }, () => jobs.claimNext(again)));
  const got = claimed.reduce((sum, { claims }) => sum + claims.length, 0);
  if (got !== kills) throw new Error(`${got} of ${kills} runs of dead workers were claimed again`);
  const { rows } = await sql.query<{ ms: number }>(
    `select extract(epoch from again.append_time - first.lease_expire_time)::float8 * 1000 as ms
     from baton.run_events first
     join baton.run_events again on again.run_id = first.run_id and again.type = 'CLAIMED' and again.attempt = 2
     where first.pipeline = $1 and first.type = 'CLAIMED' and first.attempt = 1`,
    [name],
  );
  return spread(rows.map(({ ms }) => ms));
}

/** From just before the commit of one run, by `commit`, to the answer of the one call that waits for it. */
async function measureWakes(
  waiting: CallConnection,
  sql: pg.Client,
  commit: () => Promise<unknown>,
): Promise<Spread> {
  const samples: number[] = [];
  for (let left = wakes; left > 0; left -= 1) {
    let receivedMs = 0;
    const answer = waiting.jobs
      .claimNext({ stage: 'initialize', wait: { seconds: 30n } })
      .finally(() => (receivedMs = nowMs()));
    // The call has looked in vain by then and waits.
    await pause(30 + Math.random() * 20);
    await commit();
    const { claims } = await answer;
    const { rows } = await sql.query<{ ms: number }>(
      `select extract(epoch from append_time)::float8 * 1000 as ms from baton.run_events
       where run_id = $1 and version = 1`,
      [claims[0]?.run?.id],
    );
    samples.push(receivedMs - (rows[0]?.ms ?? Number.NaN));
  }
  return spread(samples);
}

async function numberOf(sql: pg.Client, text: string): Promise<number> {
  const { rows } = await sql.query<{ n: string }>(text);
  return Number(rows[0]?.n);
}

const transactions = (sql: pg.Client): Promise<number> =>
  numberOf(
    sql,
    'select xact_commit + xact_rollback as n from pg_stat_database where datname = current_database()',
  );
/** Sessions report what they did up to a second later. */
const STATISTICS_MS = 2000;

async function measureWaiters(grpcAddress: string, sql: pg.Client): Promise<Record<string, number>> {
  await countClaims(sql);
  const waiters = new Waiters(grpcAddress, waiterCount, WAIT_MS);
  const result: Record<string, number> = { waiters: waiterCount };
  try {
    let before = -1;
    // All have looked once when the number of statements stands still.
    await waitFor(
      async () => {
        const now = await claimStatements(sql);
        const still = now === before && now > 0;
        before = now;
        await pause(1000);
        return still;
      },
      'all calls to wait',
      30_000,
    );
    result['statements until all wait'] = before;
    await pause(STATISTICS_MS);
    const idleFrom = await transactions(sql);
    const from = performance.now();
    await pause(IDLE_SECONDS * 1000);
    const seconds = (performance.now() - from) / 1000;
    result['idle transactions/s'] = Number((((await transactions(sql)) - idleFrom) / seconds).toFixed(2));
    for (const runs of [1, 10, 100]) {
      const [answered, statements] = [waiters.answered, await claimStatements(sql)];
      await sql.query('insert into baton.runs (repository) select $1 from generate_series(1, $2::int)', [
        'w',
        runs,
      ]);
      await waitFor(() => waiters.answered >= answered + runs, `${runs} calls to be answered`, 10_000);
      await pause(1500);
      result[`${runs} runs: answered`] = waiters.answered - answered;
      result[`${runs} runs: claim statements`] = (await claimStatements(sql)) - statements;
    }
    result['failed'] = waiters.failed;
    return result;
  } finally {
    waiters.close();
  }
}

const dataDir = await mkdtemp(join(tmpdir(), 'baton-bench-'));
// PostgreSQL may run as another user, which has to get in.
await chmod(dataDir, 0o755);
const database = await startEmbeddedPostgres({ dataDir, log: createLogger('error') });
const servers: ServerProcess[] = [];
const sql = new pg.Client({ connectionString: database.url });
try {
  for (let index = 0; index < 2; index += 1) {
    servers.push(await new ServerProcess(['serve', ...ANY_PORT, '--database-url', database.url]).ready());
  }
  await sql.connect();
  const [a, b] = servers.map((server) => connectCalls(server));
  if (a === undefined || b === undefined) throw new Error('two servers were started');
  const table: Record<string, Spread> = {};
  // The first few are of a program that is not compiled yet.
  for (let left = 20; left > 0; left -= 1) {
    await b.jobs.createRun({});
    await a.jobs.claimNext({ stage: 'initialize' });
  }
  table['end of a lease to the next claim'] = await measureKills(a, sql, 'kills', NO_BACKOFF);
  table['the same with the default backoff'] = await measureKills(a, sql, 'kills-backoff');
  table['SQL commit to the answer'] = await measureWakes(a, sql, () =>
    sql.query('insert into baton.runs default values'),
  );
  table['CreateRun on B to the answer on A'] = await measureWakes(a, sql, () => b.jobs.createRun({}));
  console.table(table);
  const address = servers[0]?.grpcAddress ?? '';
  a.close();
  b.close();
  // Alone, so that only one server's statements are counted.
  await servers[1]?.end();
  const waiting = await measureWaiters(address, sql);
  console.table(waiting);
  const machine = {
    ...{ cpu: cpus()[0]?.model, cores: cpus().length, memoryGiB: Math.round(totalmem() / 2 ** 30) },
    ...{ node: process.version, postgres: database.version, platform: process.platform },
  };
  console.log(JSON.stringify({ date: new Date().toISOString(), machine, table, waiting }));
} finally {
  await sql.end().catch(() => undefined);
  for (const server of servers) await server.end().catch(() => undefined);
  await database.stop();
  await rm(dataDir, { recursive: true, force: true });
}
process.exit();
