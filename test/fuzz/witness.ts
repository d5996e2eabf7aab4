/** Healthy clients beside the fuzzer: what they are promised has to hold all the time. */
import type { Client } from '@connectrpc/connect';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport } from '@connectrpc/connect-node';
import { setTimeout as delay } from 'node:timers/promises';
import { JobService, WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import { RunState } from '../../gen/baton/v1/run_pb.js';
import type { Queryable } from '../../src/store/pool.js';
import { Signal, waitFor, within } from '../support/wait.js';
import type { World } from './world.js';

/** Nobody guesses these, so that no input can mean the witness. */
const PIPELINE = 'witness_4c1f';
const STAGE = 'look_4c1f';
const [WAITING, AT_WORK, DONE] = ['waits_4c1f', 'works_4c1f', 'done_4c1f'];
/** Between two calls. */
const PAUSE_MS = 20;
const CATCH_UP_MS = 30_000;

/** A worker that creates runs and works on them, one after the other, over gRPC and Connect in turn. */
class HealthyWorker {
  readonly problems: string[] = [];
  /** Of single calls, in milliseconds. */
  readonly times: number[] = [];
  runs = 0;
  #stopping = false;
  #loop: Promise<void> | undefined;

  constructor(private readonly clients: readonly Client<typeof JobService>[]) {}

  start(): void {
    this.#loop = this.#run();
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        await this.#oneRun(this.clients[this.runs % this.clients.length]!);
        this.runs += 1;
      } catch (error) {
        this.problems.push(`the healthy worker: ${String(error)}`);
        await delay(1000);
      }
    }
  }

  async #oneRun(jobs: Client<typeof JobService>): Promise<void> {
    const { run } = await this.#timed(() => jobs.createRun({ pipeline: PIPELINE, input: { n: this.runs } }));
    const where = { pipeline: PIPELINE, stage: STAGE, workerId: 'witness' };
    // It does not wait: what it has created is there.
    const { claims } = await this.#timed(() => jobs.claimNext(where));
    const [claim] = claims;
    if (claim === undefined || claim.run?.id !== run?.id) {
      const now = await jobs.getRun({ id: run?.id ?? '' });
      return this.#stop(`its run ${run?.id} was not there to be claimed: it is ${now.run?.status}`);
    }
    const held = { runId: claim.run?.id ?? '', leaseToken: claim.leaseToken };
    const told = await this.#timed(() => jobs.updateStatus({ ...held, status: AT_WORK, progress: 0.5 }));
    if (told.cancelRequested) return this.#stop(`its run ${held.runId} was canceled, which nobody asked for`);
    await this.#timed(() => jobs.updateStatus({ ...held, status: DONE, output: { n: this.runs } }));
    const after = await this.#timed(() => jobs.getRun({ id: held.runId }));
    if (after.run?.state !== RunState.SUCCEEDED || after.run.output?.['n'] !== this.runs)
      this.problems.push(`the healthy worker's run ${held.runId} is not as it left it`);
  }

  /** After such a problem it would meet its own leftovers. */
  #stop(problem: string): void {
    this.problems.push(`the healthy worker: ${problem}`);
    this.#stopping = true;
  }

  async #timed<T>(call: () => Promise<T>): Promise<T> {
    await delay(PAUSE_MS);
    const from = performance.now();
    try {
      return await call();
    } finally {
      this.times.push(performance.now() - from);
    }
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#loop;
  }
}

/** The healthy worker, and a watcher of everything on each port. */
export class Witness {
  readonly #watchers: readonly Follower[];
  readonly worker: HealthyWorker;

  private constructor(jobs: Client<typeof JobService>, http: Client<typeof JobService>) {
    this.worker = new HealthyWorker([jobs, http]);
    this.#watchers = [new Follower(jobs), new Follower(http)];
  }

  static async start(world: World): Promise<Witness> {
    const stage = { name: STAGE, waitingStatus: WAITING, processingStatus: AT_WORK, doneStatus: DONE };
    const [initialStatus, errorStatus, canceledStatus] = [WAITING, 'error_4c1f', 'canceled_4c1f'];
    const statuses = { initialStatus, errorStatus, canceledStatus };
    await world.pipelines.putPipeline({ pipeline: { name: PIPELINE, ...statuses, stages: [stage] } });
    const baseUrl = world.server.httpUrl;
    const http = createConnectTransport({ baseUrl, httpVersion: '1.1', useBinaryFormat: false });
    const witness = new Witness(world.jobs, createClient(JobService, http));
    for (const watcher of witness.#watchers) await watcher.opened();
    witness.worker.start();
    return witness;
  }

  /** Ends, and compares what the watchers were told with the log. */
  async stop(db: Queryable): Promise<{ readonly problems: string[]; readonly events: number }> {
    await this.worker.stop();
    const problems = [...this.worker.problems];
    let events = 0;
    for (const watcher of this.#watchers) {
      const found = await compare(watcher, db).catch((error: unknown) => [`a watcher: ${String(error)}`]);
      problems.push(...found);
      events += watcher.told.length;
      await watcher.cancel();
    }
    return { problems, events };
  }
}

/** Of an event what is compared: a long run meets more events than fit into memory. */
interface Row {
  readonly revision: string;
  readonly id: string;
  readonly version: string;
}

/** A watch of everything. */
class Follower {
  readonly told: Row[] = [];
  openedAt = 0n;
  error: unknown;
  ended = false;
  readonly #abort = new AbortController();
  readonly #opened = new Signal();
  readonly #done: Promise<void>;

  constructor(jobs: Client<typeof JobService>) {
    this.#done = this.#run(jobs);
  }

  async #run(jobs: Client<typeof JobService>): Promise<void> {
    try {
      for await (const { kind, revision, events } of jobs.watchRuns({}, { signal: this.#abort.signal })) {
        if (kind === WatchKind.OPENED) {
          this.openedAt = revision;
          this.#opened.send();
        }
        for (const { revision: at, run } of events)
          this.told.push({ revision: `${at}`, id: run?.id ?? '', version: `${run?.version}` });
      }
    } catch (error) {
      this.error = error;
    }
    this.ended = true;
    this.#opened.send();
  }

  async opened(): Promise<void> {
    await within(this.#opened.promise, 'the stream to open');
    if (this.ended) throw this.error;
  }

  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.#done;
  }
}

async function compare(watcher: Follower, db: Queryable): Promise<string[]> {
  const opened = watcher.openedAt;
  const rows = await db.query<{ revision: string; id: string; version: string }>(
    `select revision::text, run_id::text as id, version::text from baton.run_events
     where revision > $1::bigint order by run_events.revision`,
    [opened],
  );
  const head = BigInt(rows.at(-1)?.revision ?? 0);
  await waitFor(
    () => watcher.ended || BigInt(watcher.told.at(-1)?.revision ?? 0) >= head,
    'a watcher to catch up',
    CATCH_UP_MS,
  );
  if (watcher.ended)
    return [`a watch ended: ${watcher.error instanceof Error ? watcher.error.message : 'well'}`];
  const { told } = watcher;
  const asText = ({ revision, id, version }: Row): string => `${revision} of run ${id} in version ${version}`;
  const differs = rows.findIndex(
    (row, index) => told[index] === undefined || asText(told[index]) !== asText(row),
  );
  if (differs < 0) return [];
  const was = told[differs];
  return [
    `a watcher was told ${was === undefined ? 'nothing' : asText(was)} instead of ${asText(rows[differs]!)}`,
  ];
}
