import assert from 'node:assert/strict';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import fc from 'fast-check';
import { LeaseOutcome } from '../../gen/baton/v1/job_service_pb.js';
import { failure } from '../support/failure.js';
import { PIPELINES } from './definitions.js';
import { PLACES, type ModelRun } from './model.js';
import { updateCommands } from './reports.js';
import {
  claimFields,
  claimRequest,
  command,
  expectedClaims,
  pick,
  server,
  type ModelCommand,
} from './command.js';
import { sameRun, takeClaims, type ClaimRequest, type CreateRequest, type Rig, type Sim } from './rig.js';

const KEYS = ['', 'k1', 'k2'] as const;
const FAR_MS = 3_600_000;

const of = <T>(items: readonly T[], index: number): T => {
  const item = items[index % items.length];
  assert.ok(item !== undefined);
  return item;
};

const fields = fc.record({
  pipeline: fc.constantFrom(...PIPELINES.map(({ name }) => name)),
  repository: fc.constantFrom(...KEYS),
  priority: fc.nat({ max: 2 }),
  maxAttempts: fc.constantFrom(0, 0, 0, 1, 4),
  later: fc.integer({ min: 0, max: 9 }).map((dice) => dice === 0),
  named: fc.boolean(),
});
type Fields = typeof fields extends fc.Arbitrary<infer T> ? T : never;

function createRequest(
  sim: Sim,
  { pipeline, repository, priority, maxAttempts, later, named }: Fields,
): CreateRequest {
  const scheduleTime = later ? timestampFromMs(Date.now() + FAR_MS) : undefined;
  const requestId = named ? sim.name('create') : '';
  return { pipeline, repository, priority, maxAttempts, requestId, scheduleTime };
}

const toProto = ({ scheduleTime, ...rest }: CreateRequest) => ({
  ...rest,
  ...(scheduleTime === undefined ? {} : { scheduleTime }),
});

function created(sim: Sim, request: CreateRequest, id: string): ModelRun {
  if (request.requestId !== '') sim.creates.push(request);
  const dueInMs = request.scheduleTime === undefined ? 0 : FAR_MS;
  return sim.model.create(id, { ...request, key: request.repository, dueInMs });
}

const create = fc.tuple(server, fields).map(([at, wanted]) =>
  command(`create ${wanted.pipeline} at ${at}`, async (sim, rig) => {
    const request = createRequest(sim, wanted);
    const { run } = await rig.server(at).jobs.createRun(toProto(request));
    sameRun(run, created(sim, request, run?.id ?? ''));
  }),
);

const createMany = fc.tuple(server, fc.array(fields, { minLength: 2, maxLength: 4 })).map(([at, all]) =>
  command(`createMany ${all.length} at ${at}`, async (sim, rig) => {
    const requests = all.map((wanted) => createRequest(sim, wanted));
    const { runs } = await rig.server(at).jobs.batchCreateRuns({ requests: requests.map(toProto) });
    assert.equal(runs.length, requests.length);
    // One statement, one moment: among these the order of claims is that of the ids, which is that of the requests.
    requests.forEach((request, index) => sameRun(runs[index], created(sim, request, runs[index]?.id ?? '')));
  }),
);

const createAgain = fc.tuple(server, pick, fc.boolean()).map(([at, index, same]) =>
  command(
    `createAgain ${same ? 'the same' : 'something else'} at ${at}`,
    async (sim, rig) => {
      const request = of(sim.creates, index);
      const { jobs } = rig.server(at);
      if (same) {
        const known = sim.model.run(sim.model.known(request.requestId) ?? '');
        sameRun((await jobs.createRun(toProto(request))).run, known);
      } else {
        const other = { ...toProto(request), priority: 9 };
        assert.equal((await failure(jobs.createRun(other))).reason, 'REQUEST_ID_REUSED');
      }
    },
    (sim) => sim.creates.length > 0,
  ),
);

const createBySql = fc.tuple(fields).map(([{ pipeline, repository, priority }]) =>
  command(`createBySql ${pipeline}`, async (sim, rig) => {
    const [row] = await rig.database.pool.query<{ id: string }>(
      'insert into baton.runs (pipeline, repository, priority) values ($1, $2, $3) returning id::text as id',
      [pipeline, repository, priority],
    );
    const request = {
      pipeline,
      repository,
      priority,
      maxAttempts: 0,
      requestId: '',
      scheduleTime: undefined,
    };
    created(sim, request, row?.id ?? '');
  }),
);

async function claimNow(sim: Sim, rig: Rig, at: number, request: ClaimRequest): Promise<void> {
  const expected = expectedClaims(sim, request);
  const { claims } = await rig.server(at).jobs.claimNext(request);
  takeClaims(sim, claims, expected, request);
  if (claims.length > 0) rig.note('claimed');
}

const claim = fc
  .tuple(server, claimFields)
  .map(([at, wanted]) =>
    command(`claim ${wanted.place.pipeline}/${wanted.place.stage} at ${at}`, (sim, rig) =>
      claimNow(sim, rig, at, claimRequest(sim, wanted)),
    ),
  );

const claimAgain = fc.tuple(server, pick).map(([at, index]) =>
  command(
    `claimAgain at ${at}`,
    (sim, rig) => claimNow(sim, rig, at, of(sim.claims, index)),
    (sim) => sim.claims.length > 0,
  ),
);

const leaseItem = fc.record({
  pick,
  live: fc.boolean(),
  news: fc.constantFrom('', 'progress', 'message', 'checkpoint'),
});
const extend = fc.tuple(server, fc.array(leaseItem, { minLength: 1, maxLength: 4 })).map(([at, items]) =>
  command(
    `extend ${items.length} at ${at}`,
    async (sim, rig) => {
      const seen = new Set<string>();
      const leases = items
        .map((item) => ({ item, held: sim.token(item.pick, item.live) }))
        .flatMap(({ item, held }) =>
          held === undefined || seen.has(held.run.id) || !seen.add(held.run.id) ? [] : [{ item, ...held }],
        )
        .map(({ item, run, token }) => ({ run, token, news: newsOf(item.news, sim) }));
      const { results } = await rig.server(at).jobs.extendLeases({
        leases: leases.map(({ run, token, news }) => ({ runId: run.id, leaseToken: token, ...news })),
      });
      leases.forEach(({ run, token, news }, index) => {
        const held = sim.model.extend(run, token, news);
        const outcome = held ? (run.view.cancelRequested ? 'CANCEL_REQUESTED' : 'OK') : 'LEASE_LOST';
        rig.note(`extend: ${outcome}`);
        const result = results[index];
        assert.equal(LeaseOutcome[result?.outcome ?? 0], outcome);
        assert.equal(result?.leaseExpireTime !== undefined, held);
      });
    },
    (sim) => sim.tokens.length > 0,
  ),
);

function newsOf(kind: string, sim: Sim) {
  if (kind === 'progress') return { progress: 0.25 };
  if (kind === 'message') return { statusMessage: sim.name('extended') };
  if (kind === 'checkpoint') return { checkpoint: { at: sim.name('checkpoint') } };
  return {};
}

const hasRuns = ({ model }: Sim): boolean => model.runs.length > 0;

const cancel = fc.tuple(server, pick, fc.boolean()).map(([at, index, says]) =>
  command(
    `cancel at ${at}`,
    async (sim, rig) => {
      const run = of(sim.model.runs, index);
      const reason = says ? sim.name('reason') : '';
      const call = rig.server(at).jobs.cancelRun({ runId: run.id, reason });
      const outcome = sim.model.cancel(run, reason);
      rig.note(`cancel: ${outcome}`);
      if (outcome === 'OK') sameRun((await call).run, run);
      else assert.equal((await failure(call)).reason, outcome);
    },
    hasRuns,
  ),
);

const retry = fc
  .tuple(server, pick, fc.constantFrom('', '', 'initialize', 'b', 'nowhere'))
  .map(([at, index, stage]) =>
    command(
      `retry ${stage} at ${at}`,
      async (sim, rig) => {
        // Mostly of what has ended, or else there would be little to retry.
        const ended = sim.model.runs.filter(({ view }) => view.stage === '');
        const run = of(ended.length > 0 && index % 5 > 0 ? ended : sim.model.runs, index);
        const call = rig.server(at).jobs.retryRun({ runId: run.id, stage });
        const outcome = sim.model.retry(run, stage);
        rig.note(`retry: ${outcome}`);
        if (outcome === 'OK') sameRun((await call).run, run);
        else assert.equal((await failure(call)).reason, outcome);
      },
      hasRuns,
    ),
  );

const setPaused = fc
  .tuple(server, fc.constantFrom(...PLACES), fc.boolean(), fc.integer({ min: 0, max: 2 }))
  .map(([at, { pipeline, stage }, whole, dice]) => {
    const pauses = dice === 0;
    return command(
      `${pauses ? 'pause' : 'resume'} ${pipeline} ${whole ? '' : stage} at ${at}`,
      async (sim, rig) => {
        const { pipelines } = rig.server(at);
        const target = { name: pipeline, stage: whole ? '' : stage };
        const key = whole ? pipeline : `${pipeline}/${stage}`;
        if (pauses) {
          await pipelines.pausePipeline(target);
          sim.model.paused.add(key);
        } else {
          await pipelines.resumePipeline(target);
          sim.model.paused.delete(key);
        }
      },
    );
  });

const endLease = fc.tuple(pick).map(([index]) =>
  command(
    'endLease',
    async (sim, rig) => {
      const held = sim.token(index, true);
      if (held === undefined) return;
      await rig.endLease(held.run);
      sim.model.expire(held.run);
    },
    ({ model }) => model.runs.some(({ token }) => token !== undefined),
  ),
);

const waits = ({ view, dueInMs }: ModelRun): boolean => view.state === 'PENDING' && dueInMs > 0;
const comeDue = fc.tuple(pick).map(([index]) =>
  command(
    'comeDue',
    async (sim, rig) => {
      const run = of(sim.model.runs.filter(waits), index);
      await rig.database.pool.query('update baton.runs set schedule_time = clock_timestamp() where id = $1', [
        run.id,
      ]);
      sim.model.comeDue(run);
    },
    ({ model }) => model.runs.some(waits),
  ),
);

const restart = fc.tuple(server).map(([at]) => command(`restart of ${at}`, (_, rig) => rig.restart(at)));

/** Each as often as its number says. */
const WEIGHTED: readonly (readonly [number, fc.Arbitrary<ModelCommand>])[] = [
  [5, create],
  [2, createMany],
  [2, createAgain],
  [1, createBySql],
  [9, claim],
  [3, claimAgain],
  [20, updateCommands.update],
  [4, updateCommands.updateAgain],
  [4, updateCommands.updateMany],
  [4, extend],
  [3, cancel],
  [4, retry],
  [2, setPaused],
  [3, endLease],
  [4, comeDue],
  [0.2, restart],
];

/** How often each command may be drawn, so that one list has a bit of everything. */
export const commands: fc.Arbitrary<ModelCommand>[] = WEIGHTED.flatMap(([weight, arbitrary]) =>
  Array.from({ length: Math.ceil(weight) }, () => arbitrary),
);
