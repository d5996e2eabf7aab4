/** Baton's clients. Also those of the empty server, which speaks the same. */
import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import { closedLoop, inBatches } from '../support/loops.js';
import { batches, load, param } from '../support/params.js';
import type { Open } from '../support/system.js';
import { BatonCalls } from './baton_calls.js';

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
    },
    close: () => clients.forEach((client) => client.close()),
  };
};
