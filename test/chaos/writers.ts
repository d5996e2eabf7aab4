import { setTimeout as pause } from 'node:timers/promises';
import type pg from 'pg';
import type { Prng } from '../support/log_prng.js';
import type { ChaosServer } from '../support/chaos_servers.js';
import { connectCalls, type CallConnection } from '../support/chaos_calls.js';
import { connect } from '../support/chaos_sql.js';

/** A quote and a blank in a name, because they travel through SQL, JSON and three protocols. */
export const REPOSITORIES = ['r0', 'r1', 'r2', "it's r3"] as const;
export const TEAMS = ['a', 'b', 'c'] as const;
const STATUSES = ['new', 'initializing', 'initialized', 'running', 'success', 'error', 'canceled'] as const;
const CALL_MS = 5000;

export interface WriterCounts {
  /** Calls that were answered, and calls whose outcome is not known. */
  calls: number;
  failedCalls: number;
  commits: number;
  rollbacks: number;
  /** Transactions that a fault ended; also those whose commit may have gone through. */
  brokenTransactions: number;
}

export interface WriterContext {
  readonly random: Prng;
  readonly counts: WriterCounts;
  readonly signal: AbortSignal;
  /** Milliseconds between two pieces of work. */
  readonly restMs: number;
}

const labelsOf = (random: Prng): Record<string, string> => ({
  team: random.pick(TEAMS),
  n: String(random.between(0, 9)),
});

/** Works through the API: creates, claims and reports, on whichever server; what fails is forgotten. */
export async function writeByCalls(servers: readonly ChaosServer[], context: WriterContext): Promise<void> {
  const { random, counts, signal, restMs } = context;
  let connection: CallConnection | undefined;
  while (!signal.aborted) {
    connection ??= connectCalls(random.pick(servers));
    try {
      counts.calls += await work(connection, random);
    } catch {
      counts.failedCalls += 1;
      connection.close();
      connection = undefined;
      await rest(random.between(50, 400), signal);
    }
    // Now and then to another server, as a load balancer would.
    if (random.chance(0.01)) {
      connection?.close();
      connection = undefined;
    }
    await rest(random.between(0, restMs * 2), signal);
  }
  connection?.close();
}

async function work({ jobs }: CallConnection, random: Prng): Promise<number> {
  const options = { timeoutMs: CALL_MS };
  let calls = 1;
  const dice = random.next();
  if (dice < 0.35) {
    await jobs.createRun(newRun(random), options);
    return calls;
  }
  if (dice < 0.45) {
    const requests = Array.from({ length: random.between(2, 12) }, () => newRun(random));
    await jobs.batchCreateRuns({ requests }, options);
    return calls;
  }
  const stage = random.pick(['initialize', 'run']);
  const maxRuns = random.between(1, 5);
  const { claims } = await jobs.claimNext({ stage, maxRuns, workerId: 'chaos' }, options);
  for (const { run, leaseToken } of claims) {
    const done = stage === 'run' ? 'success' : 'initialized';
    const status = random.pick([
      done,
      done,
      done,
      done,
      'error',
      stage === 'run' ? 'running' : 'initializing',
    ]);
    const output = random.chance(0.5)
      ? { n: random.between(0, 999), text: 'x'.repeat(random.between(0, 400)) }
      : undefined;
    // Some keep their lease, as a worker that died would.
    if (random.chance(0.1)) continue;
    calls += 1;
    await jobs
      .updateStatus(
        {
          runId: run?.id ?? '',
          leaseToken,
          status,
          ...(output === undefined ? {} : { output }),
          ...(status === 'error'
            ? { error: { code: 'X', message: "didn't", retryable: random.chance(0.5) } }
            : {}),
        },
        options,
      )
      .catch((error: unknown) => {
        // Plain SQL moves the same runs: a lost lease is an answer like any other.
        if (!String(error).includes('lease')) throw error;
      });
  }
  return calls;
}

function newRun(random: Prng) {
  return {
    repository: random.pick(REPOSITORIES),
    labels: labelsOf(random),
    priority: random.between(0, 9),
    ...(random.chance(0.6)
      ? { input: { n: random.between(0, 99), text: 'y'.repeat(random.between(0, 300)) } }
      : {}),
  };
}

/** Writes with plain SQL: transactions of several statements with pauses, savepoints and rollbacks. */
export async function writeBySql(databaseUrl: string, context: WriterContext): Promise<void> {
  const { random, counts, signal, restMs } = context;
  let client: pg.Client | undefined;
  while (!signal.aborted) {
    try {
      client ??= await connect(databaseUrl);
      await transact(client, context);
    } catch {
      counts.brokenTransactions += 1;
      await client?.end().catch(() => undefined);
      client = undefined;
      await rest(random.between(50, 400), signal);
    }
    await rest(random.between(0, restMs * 2), signal);
  }
  await client?.end().catch(() => undefined);
}

async function transact(client: pg.Client, { random, counts, signal }: WriterContext): Promise<void> {
  await client.query('begin');
  for (let left = random.between(1, 4); left > 0; left -= 1) {
    if (random.chance(0.2)) {
      await client.query('savepoint s');
      await write(client, random);
      await client.query(random.chance(0.5) ? 'rollback to savepoint s' : 'release savepoint s');
    } else {
      await write(client, random);
    }
    if (random.chance(0.25)) await rest(random.between(0, 20), signal);
  }
  // A few commit long after others that began later.
  if (random.chance(0.03)) await rest(random.between(200, 800), signal);
  if (random.chance(0.15)) {
    counts.rollbacks += 1;
    await client.query('rollback');
  } else {
    await client.query('commit');
    counts.commits += 1;
  }
}

async function write(client: pg.Client, random: Prng): Promise<void> {
  if (random.chance(0.45)) {
    await client.query(
      `insert into baton.runs (repository, labels, priority, input)
       select $1, $2::jsonb, $3, $4::jsonb from generate_series(1, $5)`,
      [
        random.pick(REPOSITORIES),
        JSON.stringify(labelsOf(random)),
        random.between(0, 9),
        random.chance(0.5) ? JSON.stringify({ 'a b': random.between(0, 99), quote: "'" }) : null,
        random.between(1, 4),
      ],
    );
    return;
  }
  const change = random.pick([
    `status = '${random.pick(STATUSES)}'`,
    `status = '${random.pick(STATUSES)}'`,
    `priority = ${random.between(0, 9)}`,
    `progress = ${random.next().toFixed(3)}, status_message = 'at 100% of "it''s"'`,
    `output = '{"n": ${random.between(0, 999)}, "list": [1, "two", null]}'`,
    `checkpoint = '{"at": ${random.between(0, 999)}}'`,
  ]);
  // Waits for nobody, so that writers cannot wait for each other in a circle.
  await client.query(
    `update baton.runs set ${change} where id in (
       select id from baton.runs where id < baton.uuid_v7() order by id desc offset $1 limit $2
       for update skip locked)`,
    [random.between(0, 200), random.between(1, 3)],
  );
}

async function rest(delayMs: number, signal: AbortSignal): Promise<void> {
  await pause(delayMs, undefined, { signal }).catch(() => undefined);
}

/**
 * Transactions that stay open for the whole run: one that has written runs, one that holds a snapshot, and one that
 * does both in another database. What ends them begins them again.
 */
export class OpenTransactions {
  readonly #urls: readonly [here: string, elsewhere: string];
  readonly #clients = new Map<string, pg.Client>();
  #timer: NodeJS.Timeout | undefined;
  #busy = Promise.resolve();
  opened = 0;

  constructor(here: string, elsewhere: string) {
    this.#urls = [here, elsewhere];
  }

  async start(): Promise<void> {
    await this.#keep();
    this.#timer = setInterval(() => {
      this.#busy = this.#busy.then(() => this.#keep());
    }, 1000);
  }

  async #keep(): Promise<void> {
    const [here, elsewhere] = this.#urls;
    await this.#open('writing', here, 'begin', `insert into baton.runs (repository) values ('idle')`);
    await this.#open(
      'reading',
      here,
      'begin isolation level repeatable read',
      'select count(*) from baton.runs',
    );
    await this.#open(
      'elsewhere',
      elsewhere,
      'begin isolation level repeatable read',
      'create temporary table if not exists t as select txid_current()',
    );
  }

  async #open(name: string, url: string, ...statements: readonly string[]): Promise<void> {
    if (this.#clients.has(name)) return;
    try {
      const client = await connect(url);
      client.on('end', () => {
        if (this.#clients.get(name) === client) this.#clients.delete(name);
      });
      for (const statement of statements) await client.query(statement);
      this.#clients.set(name, client);
      this.opened += 1;
    } catch {
      // The database is away; the timer comes back.
    }
  }

  /** Commits what was written and idled. */
  async end(): Promise<void> {
    clearInterval(this.#timer);
    await this.#busy;
    for (const client of this.#clients.values()) {
      await client.query('commit').catch(() => undefined);
      await client.end().catch(() => undefined);
    }
  }
}
