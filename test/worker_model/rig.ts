import assert from 'node:assert/strict';
import { timestampMs, type Duration } from '@bufbuild/protobuf/wkt';
import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import { EventType } from '../../gen/baton/v1/run_event_pb.js';
import { RunState, type Run } from '../../gen/baton/v1/run_pb.js';
import { expireLeases } from '../../src/store/sql/expire_leases.js';
import type { TestDatabase } from '../support/database.js';
import { startTestServer, type TestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';
import { PIPELINES, putRequest } from './definitions.js';
import { Model, type ModelRun, type Report, type View } from './model.js';

/** How far two readings of the clock in one statement may be apart. */
const CLOCK_SLACK_MS = 2000;

export interface ClaimRequest {
  readonly pipeline: string;
  readonly stage: string;
  readonly workerId: string;
  readonly maxRuns: number;
  readonly requestId: string;
  readonly leaseDuration: Duration;
}

export interface CreateRequest {
  readonly pipeline: string;
  readonly repository: string;
  readonly priority: number;
  readonly maxAttempts: number;
  readonly requestId: string;
  readonly scheduleTime: { readonly seconds: bigint; readonly nanos: number } | undefined;
}

/** The model with what its clients remember: every token that was ever given, and what was sent before. */
export class Sim {
  readonly model = new Model();
  readonly tokens: { readonly run: ModelRun; readonly token: string }[] = [];
  readonly reports: { readonly run: ModelRun; readonly token: string; readonly report: Report }[] = [];
  readonly creates: CreateRequest[] = [];
  readonly claims: ClaimRequest[] = [];
  #names = 0;

  name(prefix: string): string {
    this.#names += 1;
    return `${prefix}-${this.#names}`;
  }

  /** A token by chance: mostly one that holds. Undefined before the first claim. */
  token(pick: number, live: boolean): { readonly run: ModelRun; readonly token: string } | undefined {
    const held = this.tokens.filter(({ run, token }) => run.token === token);
    const from = live && held.length > 0 ? held : this.tokens;
    return from[pick % from.length];
  }
}

/** Two servers on one database, which are asked and asked about. */
export class Rig {
  readonly database: TestDatabase;
  readonly servers: TestServer[];
  readonly counts: Map<string, number>;

  private constructor(database: TestDatabase, servers: TestServer[], counts: Map<string, number>) {
    this.database = database;
    this.servers = servers;
    this.counts = counts;
  }

  /** @param counts what came of the commands, over all runs of the test */
  static async start(database: TestDatabase, counts: Map<string, number>): Promise<Rig> {
    const servers = [await startTestServer(database.url), await startTestServer(database.url)];
    for (const pipeline of PIPELINES) await servers[0]?.pipelines.putPipeline(putRequest(pipeline));
    return new Rig(database, servers, counts);
  }

  note(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  server(index: number): TestServer {
    const server = this.servers[index % this.servers.length];
    assert.ok(server);
    return server;
  }

  async restart(index: number): Promise<void> {
    const at = index % this.servers.length;
    await this.servers[at]?.stop();
    this.servers[at] = await startTestServer(this.database.url);
  }

  /** Ends the lease of a run as time would, and lets whoever comes first find that out. */
  async endLease(run: ModelRun): Promise<void> {
    const { pool } = this.database;
    await pool.query('update baton.runs set lease_expire_time = clock_timestamp() where id = $1', [run.id]);
    await expireLeases(pool, 500);
    const isOver = async (): Promise<boolean> => {
      const rows = await pool.query('select 1 from baton.runs where id = $1 and lease_id is null', [run.id]);
      return rows.length === 1;
    };
    await waitFor(isOver, 'a lease to be ended by the server that has it in hand', 5000);
  }

  async stop(): Promise<void> {
    for (const server of this.servers) await server.stop();
    await this.database.drop();
  }
}

/** Takes note of claims, which have to be exactly these, in this order. */
export function takeClaims(
  sim: Sim,
  claims: readonly Claim[],
  expected: readonly ModelRun[],
  request: ClaimRequest,
): void {
  assert.deepEqual(
    claims.map(({ run }) => run?.id),
    expected.map(({ id }) => id),
    'which runs a claim gives',
  );
  claims.forEach(({ run, leaseToken, leaseExpireTime }, index) => {
    const claimed = expected[index];
    assert.ok(run !== undefined && claimed !== undefined && leaseExpireTime !== undefined);
    const isNew = claimed.token === undefined;
    if (isNew) {
      sim.model.claim(claimed, request.workerId, request.requestId, leaseToken);
      assert.ok(!sim.tokens.some(({ token }) => token === leaseToken), 'every claim has a token of its own');
      sim.tokens.push({ run: claimed, token: leaseToken });
    }
    assert.equal(leaseToken, claimed.token, 'a repeated claim has the same token');
    if (isNew) return sameRun(run, claimed, true);
    const { view } = claimed.history.findLast(({ type }) => type === 'CLAIMED') ?? {};
    assert.deepEqual(viewOf(run), view, 'a repeated claim shows the run as it was claimed');
  });
}

function viewOf(run: Run): View {
  return {
    status: run.status,
    stage: run.stage,
    state: RunState[run.state] as View['state'],
    attempt: run.attempt,
    maxAttempts: run.maxAttempts,
    version: Number(run.version),
    cancelRequested: run.cancelRequested,
    error: run.error === undefined ? undefined : { code: run.error.code, message: run.error.message },
    output: run.output as View['output'],
    checkpoint: run.checkpoint as View['checkpoint'],
    progress: run.progress,
    statusMessage: run.statusMessage,
    workerId: run.workerId,
    leased: run.leaseExpireTime !== undefined,
  };
}

/** What an answer shows against what the model knows; only some answers carry the payload. */
export function sameRun(run: Run | undefined, expected: ModelRun, payload = false): void {
  assert.ok(run);
  assert.equal(run.id, expected.id);
  const left = payload ? {} : { output: undefined, checkpoint: undefined };
  assert.deepEqual(viewOf(run), { ...expected.view, ...left });
  const waits = expected.view.state === 'PENDING' && expected.dueInMs > 0;
  if (!waits || run.scheduleTime === undefined || run.updateTime === undefined) return assert.ok(!waits);
  const delayMs = timestampMs(run.scheduleTime) - timestampMs(run.updateTime);
  assert.ok(
    Math.abs(delayMs - expected.dueInMs) < CLOCK_SLACK_MS,
    `waits for ${delayMs} ms, should be ${expected.dueInMs}`,
  );
}

/** Every run and its whole history, asked of either server. */
export async function compareAll(sim: Sim, rig: Rig): Promise<void> {
  for (const [index, run] of sim.model.runs.entries()) {
    const { jobs } = rig.server(index);
    sameRun((await jobs.getRun({ id: run.id })).run, run, true);
    const { events, nextPageToken } = await jobs.listRunEvents({
      ...{ runId: run.id, pageSize: 1000, includePayload: true },
    });
    assert.equal(nextPageToken, '');
    assert.deepEqual(
      events.map((event) => {
        assert.ok(event.run);
        const { previousStatus, type } = event;
        return { type: EventType[type], previousStatus, view: viewOf(event.run) };
      }),
      run.history,
      `the history of run ${run.id}`,
    );
  }
}
