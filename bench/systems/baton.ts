/** Baton's clients. Also those of the empty server, which speaks the same. */
import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import { claimLoop } from '../support/claim_loop.js';
import { closedLoop, inBatches } from '../support/loops.js';
import { OpenLoop } from '../support/open_loop.js';
import { batches, claimLoad, load, param, schedule } from '../support/params.js';
import type { Open } from '../support/system.js';
import { BatonCalls } from './baton_calls.js';

/** Waits longer than there is nothing to do. */
const PATIENT = { wait: { seconds: 20n } };
/** What the run is about that sends a worker home. */
const LAST = 'last';

export const open: Open = async ({ grpcPorts }) => {
  const clients = grpcPorts.map((port) => new BatonCalls(port));
  const clientOf = (lane: number): BatonCalls => clients[lane % clients.length]!;
  await clientOf(0).putPipeline();
  /** What was claimed and not completed yet. */
  const held: Claim[] = [];
  let turn = 0;
  const next = (): BatonCalls => clientOf((turn += 1));

  return {
    operations: {
      createBatches: (params) =>
        inBatches(batches(params), async (size) => {
          await next().batchCreateRuns(size);
          return size;
        }),
      /** Remote workers that claim many at once and report them together. */
      workBatches: (params) =>
        inBatches(batches(params), async (size) => {
          const client = next();
          const claims = await client.claimNext({ maxRuns: size });
          if (claims.length > 0) await client.completeAll(claims);
          return claims.length;
        }),
      create: (params) =>
        closedLoop(load(params), async (lane) => {
          await clientOf(lane).createRun();
          return true;
        }),
      claim: (params) =>
        closedLoop(load(params), async (lane) => {
          const claims = await clientOf(lane).claimNext();
          held.push(...claims);
          return claims.length > 0;
        }),
      complete: (params) =>
        closedLoop(load(params), async (lane) => {
          const claim = held.pop();
          if (claim === undefined) return false;
          await clientOf(lane).complete(claim);
          return true;
        }),
      async completeAndClaim(params) {
        // Each lane is a worker, which has one claim before the clock starts.
        const inFlight = param(params, 'inFlight');
        const workers = await Promise.all(
          Array.from({ length: inFlight }, (_, lane) => clientOf(lane).claimNext()),
        );
        const current = workers.map(([claim]) => claim);
        const counted = await closedLoop(load(params), async (lane) => {
          const claim = current[lane];
          if (claim === undefined) return false;
          [current[lane]] = await clientOf(lane).completeAndClaim(claim);
          return true;
        });
        held.push(...current.filter((claim) => claim !== undefined));
        return counted;
      },
      claims: (params) =>
        claimLoop<Claim>(claimLoad(params), {
          claim: async () => (await next().claimNext())[0],
          complete: (claims) => next().completeAll(claims),
          create: (runs) => next().batchCreateRuns(runs),
        }),
      /** Workers that wait for work, each of which reports a run and waits for the next in one call. */
      async createToClaim(params) {
        const loop = new OpenLoop(schedule(params));
        const worker = async (lane: number): Promise<void> => {
          let [claim] = await clientOf(lane).claimNext(PATIENT);
          for (; claim?.run?.repository !== LAST; [claim] = await nextOf(lane, claim))
            if (claim !== undefined) loop.arrived(Number(claim.run?.repository));
          await clientOf(lane).complete(claim);
        };
        const nextOf = (lane: number, claim: Claim | undefined): Promise<readonly Claim[]> =>
          claim === undefined
            ? clientOf(lane).claimNext(PATIENT)
            : clientOf(lane).completeAndClaim(claim, PATIENT);
        const workers = Array.from({ length: param(params, 'workers') }, (_, lane) => worker(lane));
        const measured = await loop.run((index) => clientOf(index).createRun(String(index)));
        // One for each worker, which ends with it.
        await Promise.all(workers.map((_, lane) => clientOf(lane).createRun(LAST)));
        await Promise.all(workers);
        return { ...measured, sent: (measured['sent'] ?? Number.NaN) + workers.length };
      },
    },
    close: () => clients.forEach((client) => client.close()),
  };
};
