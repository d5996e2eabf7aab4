/**
 * What one client's request does to another: each hostile request of `support/hostile_requests.ts` over each transport, alone
 * and many at once, while a healthy client in a process of its own makes its calls. Judged is how long these take, and how
 * much memory the server takes beyond the bytes that it was sent.
 */
import { readFile, writeFile } from 'node:fs/promises';
import type { Bench, Context, Goal } from './support/bench.js';
import { execute } from './support/cluster.js';
import { LARGE_RUN_ID } from './support/hostile_bytes.js';
import { HOSTILE } from './support/hostile_requests.js';
import { Child } from './support/ipc.js';
import { pause } from './support/loops.js';
import { rounded, type Measures } from './support/stats.js';
import type { BatonPlace, ServerArgs } from './support/system.js';
import type { Attack, Attacked, AttackerArgs } from './systems/hurt_attacker.js';
import type { HealthyArgs, HealthyTimes } from './systems/hurt_healthy.js';

const P99_MS = 250;
const GROWTH_MIB = 200;
const MIB = 2 ** 20;
/** How often the server's memory is looked at; its peak is kept by the kernel. */
const LOOK_MS = 50;
/** Time for the healthy client to run in, and to be seen after the attack. */
const AROUND = { full: 1500, smoke: 50 };
/** Runs of a MiB, whose texts PostgreSQL keeps small. */
const LARGE_RUNS = { full: 1000, smoke: 5 };

const SMOKE_SIZE = 1 / 500;
const [ALONE, MANY] = ['alone', 'many at once'];

/** A server with its healthy client and its attacker, each a process. */
interface Stage {
  readonly server: Child;
  readonly healthy: Child;
  readonly attacker: Child;
  readonly pid: number;
  readonly httpPort: number;
}

async function startStage({ serverArgv }: Context, databaseUrl: string): Promise<Stage> {
  const args: ServerArgs = { databaseUrl, listen: true };
  const server = new Child('systems/baton_server.js', args, serverArgv);
  const { grpcPort, httpPort, pid } = await server.ask<BatonPlace>();
  const healthy = new Child('systems/hurt_healthy.js', { grpcPort } satisfies HealthyArgs);
  const attacker = new Child('systems/hurt_attacker.js', { grpcPort, httpPort } satisfies AttackerArgs);
  await Promise.all([healthy.ask(), attacker.ask()]);
  return { server, healthy, attacker, pid, httpPort };
}

async function stopStage({ server, healthy, attacker }: Stage): Promise<void> {
  await Promise.all([healthy.end(), attacker.end()]);
  await server.end();
}

/** Resident bytes of a process now and at their highest; undefined when it is gone. */
async function memoryOf(pid: number): Promise<{ readonly now: number; readonly peak: number } | undefined> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  const of = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]) * 1024;
  return status.includes('VmHWM') ? { now: of('VmRSS'), peak: of('VmHWM') } : undefined;
}

/** Has the kernel forget the peak before. */
const resetPeak = (pid: number): Promise<void> => writeFile(`/proc/${pid}/clear_refs`, '5');

interface Outcome {
  readonly measures: Measures;
  readonly answers: string;
  readonly isAlive: boolean;
}

async function measure(stage: Stage, attack: Attack, smoke: boolean): Promise<Outcome> {
  const aroundMs = smoke ? AROUND.smoke : AROUND.full;
  await pause(aroundMs);
  await stage.healthy.ask<HealthyTimes>({});
  await resetPeak(stage.pid);
  const before = await memoryOf(stage.pid);
  let last = before;
  const watch = { isOn: true };
  const watched = (async () => {
    for (; watch.isOn; await pause(LOOK_MS)) last = (await memoryOf(stage.pid)) ?? last;
  })();
  const attacked = await stage.attacker.ask<Attacked>(attack);
  await pause(aroundMs);
  const times = await stage.healthy.ask<HealthyTimes>({});
  watch.isOn = false;
  await watched;
  const isAlive = (await memoryOf(stage.pid)) !== undefined;
  const grownBytes = (last?.peak ?? Number.NaN) - (before?.now ?? Number.NaN) - attacked.sentBytes;
  const answers = Object.entries(attacked.answers).map(([answer, count]) => `${count} × ${answer}`);
  return {
    measures: {
      ...{
        p50Ms: times.p50Ms,
        p99Ms: times.p99Ms,
        maxMs: times.maxMs,
        failed: times.failed,
        calls: times.calls,
      },
      ...{ sentMiB: attacked.sentBytes / MIB, grownMiB: grownBytes / MIB, attackMs: attacked.ms },
      died: isAlive ? 0 : 1,
    },
    answers: isAlive ? answers.join(', ') : `the server died; ${answers.join(', ')}`,
    isAlive,
  };
}

const LARGE_PIPELINE = {
  ...{ name: 'large', initialStatus: 'waiting', errorStatus: 'failed', canceledStatus: 'canceled' },
  stages: [{ name: 'work', waitingStatus: 'waiting', processingStatus: 'working', doneStatus: 'done' }],
};

/** A pipeline in which so many runs wait that are as large as they may be. */
async function makeLargeRuns({ httpPort }: Stage, databaseUrl: string, count: number): Promise<void> {
  const answer = await fetch(`http://127.0.0.1:${httpPort}/baton.v1.PipelineService/PutPipeline`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ pipeline: LARGE_PIPELINE }),
  });
  if (!answer.ok) throw new Error(`PutPipeline: ${await answer.text()}`);
  const text = "jsonb_build_object('text', repeat('x', 1048000))";
  await execute(
    databaseUrl,
    `insert into baton.runs (id, pipeline, input) values ('${LARGE_RUN_ID}', 'large', ${text}) on conflict do nothing`,
  );
  await execute(
    databaseUrl,
    `insert into baton.runs (pipeline, input)
     select 'large', ${text}
     from generate_series(1, ${count} - (select count(*) from baton.runs where pipeline = 'large' and state = 'PENDING'))`,
  );
}

interface Row extends Attack {
  readonly row: string;
}

/**
 * Each request over each transport, alone and many at once; in a try only one of the two, in turns.
 *
 * @param only part of the names of rows; all when it is empty
 */
function rowsOf({ option, smoke }: Context, only: string): Row[] {
  const size = smoke ? SMOKE_SIZE : 1;
  const streams = option('streams');
  const pairs = Object.entries(HOSTILE).flatMap(([name, { ways }]) => ways.map((way) => ({ name, way })));
  return pairs
    .flatMap((pair, index) => {
      const kinds = [
        { ...pair, size, streams, copies: 1, row: `${pair.name}, ${pair.way}, ${ALONE}` },
        { ...pair, size, streams, copies: option('copies'), row: `${pair.name}, ${pair.way}, ${MANY}` },
      ];
      return smoke ? [kinds[index % 2]!] : kinds;
    })
    .filter(({ row }) => row.includes(only));
}

/** Goals over all rows of a kind, each with the worst in its text. */
function goalsOf(rows: Readonly<Record<string, readonly Measures[]>>): Goal[] {
  const worst = (kind: string, key: string): [string, number] =>
    Object.entries(rows)
      .filter(([row]) => row.endsWith(kind))
      .map(([row, [measures]]): [string, number] => [row, measures?.[key] ?? Number.NaN])
      .reduce((most, one) => (one[1] > most[1] ? one : most), ['none', Number.NEGATIVE_INFINITY]);
  return [ALONE, MANY].flatMap((kind) => {
    const [[slow, p99Ms], [large, grownMiB]] = [worst(kind, 'p99Ms'), worst(kind, 'grownMiB')];
    return [
      { text: `${kind}: p99 of a healthy client in ms, at worst (${slow})`, value: p99Ms, atMost: P99_MS },
      {
        text: `${kind}: memory beyond what was sent in MiB, at worst (${large})`,
        value: grownMiB,
        atMost: GROWTH_MIB,
      },
    ];
  });
}

const isMet = ({ p99Ms = NaN, grownMiB = NaN, failed = NaN, died = NaN }: Measures): boolean =>
  p99Ms <= P99_MS && grownMiB <= GROWTH_MIB && failed === 0 && died === 0;

export const bench: Bench = {
  options: { copies: { full: 50, smoke: 3 }, streams: { full: 2000, smoke: 50 } },
  texts: ['only'],
  runs: 1,
  async run(context) {
    const { cluster, smoke, progress } = context;
    const databaseUrl = await cluster.createDatabase();
    const rows: Record<string, Measures[]> = {};
    const notes: string[] = [];
    const large = smoke ? LARGE_RUNS.smoke : LARGE_RUNS.full;
    let stage: Stage | undefined;
    for (const { row, ...attack } of rowsOf(context, context.text('only'))) {
      stage ??= await startStage(context, databaseUrl);
      if (HOSTILE[attack.name]?.needsLargeRuns === true) await makeLargeRuns(stage, databaseUrl, large);
      const { measures, answers, isAlive } = await measure(stage, attack, smoke);
      rows[row] = [measures];
      const told = `${row}: ${answers}; p99 ${rounded(measures['p99Ms'] ?? NaN)} ms, ${rounded(measures['grownMiB'] ?? NaN)} MiB: ${isMet(measures) ? 'met' : 'MISSED'}`;
      progress(told);
      notes.push(told);
      // Memory that a process has taken once shows no second time. A try does not look at numbers.
      if (smoke && isAlive) continue;
      await stopStage(stage);
      stage = undefined;
    }
    if (stage !== undefined) await stopStage(stage);
    await cluster.dropDatabase(databaseUrl);
    return { rows, ratios: {}, goals: goalsOf(rows), notes };
  },
};
