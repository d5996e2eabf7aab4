/**
 * Runs inputs against a server beside healthy clients, and gathers all that is not as it should be:
 *
 *   inputs ─▶ lanes ─▶ senders ─▶ the server ─▶ answers ─▶ judge ─┐
 *   healthy worker, two watchers ─▶ the server ─▶ their problems ─┼─▶ the report
 *   its log, its end, its streams, its database ──────────────────┘
 */
import { createPool } from '../../src/store/pool.js';
import { silent } from '../support/database.js';
import { waitFor } from '../support/wait.js';
import { checkDatabase } from './database_checks.js';
import { Findings } from './findings.js';
import type { Input } from './input.js';
import { inputAt } from './inputs.js';
import { judge } from './judge.js';
import type { Report } from './report.js';
import { Sender } from './send.js';
import type { Vocabulary } from './vocabulary.js';
import { Witness } from './witness.js';
import { World } from './world.js';

export interface FuzzOptions {
  /** Of an empty database. */
  readonly databaseUrl: string;
  readonly seed: number;
  /** The number of the first input, and how many there are. */
  readonly first: number;
  readonly inputs: number;
  readonly say: (line: string) => void;
}

/** Inputs under way at a time. */
const LANES = 8;
/** The runs that inputs name are used up by then. */
const REFRESH_INPUTS = 150;
const SAY_INPUTS = 5000;
/** Of what calls and streams have left in the server, once their clients are gone. */
const LEFT_TIMEOUT_MS = 15_000;
/** A stop that has not come to its end by then waits for something. Calls are given 10 s, and none is under way. */
const LONG_STOP_MS = 4000;

export async function fuzz(options: FuzzOptions): Promise<Report> {
  const started = performance.now();
  const world = await World.start(options.databaseUrl);
  const db = createPool({ databaseUrl: options.databaseUrl, connections: 2, log: silent });
  try {
    const witness = await Witness.start(world);
    const run = new Run(world, options);
    await run.all();
    const seconds = (performance.now() - started) / 1000;
    const witnessed = await witness.stop(db);
    const problems = [...witnessed.problems];
    if (!run.isOver) problems.push(...(await leftovers(world)));
    problems.push(...(await checkDatabase(db)));
    const stopped = await stop(world);
    const { findings } = run;
    return {
      ...{ options, seconds, sent: run.sent, findings: findings.all, outcomes: findings.outcomes },
      ...{ problems: [...problems, ...stopped.problems], stopMs: stopped.ms },
      ...{ witness: { runs: witness.worker.runs, times: witness.worker.times, events: witnessed.events } },
    };
  } finally {
    if (world.server.child.exitCode === null) world.server.child.kill('SIGKILL');
    await db.close();
  }
}

/** The lanes, and what they share. */
class Run {
  readonly findings = new Findings();
  readonly #underWay = new Map<number, Input>();
  #vocabulary!: Vocabulary;
  #next: number;
  /** The server has ended. */
  isOver = false;
  sent = 0;

  constructor(
    private readonly world: World,
    private readonly options: FuzzOptions,
  ) {
    this.#next = options.first;
  }

  async all(): Promise<void> {
    const { server } = this.world;
    const onEnd = (): void => {
      this.isOver = true;
      const last = server.stderr.slice(-2000);
      this.findings.addUnderWay(`the server ended: ${last}`, this.#underWay);
    };
    server.child.once('exit', onEnd);
    const onLog = (text: string): void => this.#readLog(text);
    server.child.stderr?.on('data', onLog);
    this.#vocabulary = await this.world.refresh();
    await Promise.all(Array.from({ length: LANES }, () => this.#lane()));
    server.child.off('exit', onEnd);
    server.child.stderr?.off('data', onLog);
  }

  async #lane(): Promise<void> {
    const sender = new Sender(this.world.addresses);
    const { first, inputs, seed } = this.options;
    while (this.#next < first + inputs && !this.isOver) {
      const number = this.#next;
      this.#next += 1;
      await this.#keepUp(number - first);
      const input = inputAt(seed, number, this.#vocabulary);
      this.#underWay.set(number, input);
      await this.#try(sender, number, input);
      this.#underWay.delete(number);
      this.sent += 1;
    }
    sender.close();
  }

  async #try(sender: Sender, number: number, input: Input): Promise<void> {
    try {
      const answer = await sender.send(input);
      if (this.isOver) return;
      const { outcome, problems } = judge(input, answer);
      this.findings.count(input, outcome);
      for (const problem of problems) this.findings.add(problem, number, input);
    } catch (error) {
      // A client's library refuses to send it, or what came back cannot be read.
      this.findings.add(`not sent or not read: ${String(error)}`, number, input);
    }
  }

  async #keepUp(done: number): Promise<void> {
    if (done > 0 && done % SAY_INPUTS === 0) this.options.say(`${done} inputs`);
    if (done === 0 || done % REFRESH_INPUTS !== 0 || this.isOver) return;
    try {
      this.#vocabulary = await this.world.refresh();
    } catch (error) {
      if (!this.isOver) this.findings.addUnderWay(`a good request failed: ${String(error)}`, this.#underWay);
    }
  }

  /** Lines of JSON, one an entry; a line that comes in two parts is no loss, since its beginning has its level. */
  #readLog(text: string): void {
    for (const line of text.split('\n')) {
      if (!/"level":(50|60)\b/.test(line)) continue;
      const parts = [/"msg":"[^"]{0,200}/, /"stack":"(?:[^"\\]|\\.){0,300}/].map(
        (part) => part.exec(line)?.[0] ?? '',
      );
      const message = parts.join(' ').replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, '…');
      this.findings.addUnderWay(`logged as an error: ${message}`, this.#underWay);
    }
  }
}

/** The clients are gone; what they had in the server has to go too. */
async function leftovers(world: World): Promise<string[]> {
  let left: string[] = [];
  const isEmpty = async (): Promise<boolean> => {
    const metrics = await (await fetch(`${world.server.httpUrl}/metrics`)).text();
    const gauges = /^(baton_(?:streams|claims_waiting|stream_held_bytes|group_waiting)\b\S*) ([\d.e+]+)$/gm;
    left = [...metrics.matchAll(gauges)].filter(([, , value]) => value !== '0').map(([line]) => line);
    return left.length === 0;
  };
  await waitFor(isEmpty, 'the server to be without calls', LEFT_TIMEOUT_MS).catch(() => undefined);
  return left.map((line) => `left behind in the server: ${line}`);
}

/** @returns how long the end took, and if that was long, what it waited for */
async function stop({ server }: World): Promise<{ readonly ms: number; readonly problems: string[] }> {
  if (server.child.exitCode !== null || server.child.signalCode !== null) return { ms: 0, problems: [] };
  const from = performance.now();
  let open: Promise<string> | undefined;
  const timer = setTimeout(() => {
    open = server.whatIsOpen();
  }, LONG_STOP_MS);
  const code = await server.end();
  clearTimeout(timer);
  const problems = code === 0 ? [] : [`the server ended with ${code}: ${server.stderr.slice(-1000)}`];
  const ms = performance.now() - from;
  if (open !== undefined)
    problems.push(`after ${LONG_STOP_MS} ms of its stop there was still open:\n${await open}`);
  return { ms, problems };
}
