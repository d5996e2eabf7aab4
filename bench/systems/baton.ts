/** Baton's clients. Also those of the empty server, which speaks the same. */
import type { Claim } from '../../gen/baton/v1/job_service_pb.js';
import { closedLoop } from '../support/loops.js';
import { param } from '../support/params.js';
import type { Open, Params } from '../support/system.js';
import { BatonCalls, FILL_BATCH } from './baton_calls.js';

export const open: Open = async ({ grpcPorts }) => {
  const clients = grpcPorts.map((port) => new BatonCalls(port));
  const clientOf = (lane: number): BatonCalls => clients[lane % clients.length]!;
  await clientOf(0).putPipeline();
  /** What was claimed and not completed yet. */
  const held: Claim[] = [];
  const load = (params: Params) => ({
    inFlight: param(params, 'inFlight'),
    seconds: param(params, 'seconds'),
  });

  return {
    operations: {
      async fill(params) {
        const runs = param(params, 'runs');
        for (let done = 0; done < runs; done += FILL_BATCH)
          await clientOf(0).batchCreateRuns(Math.min(FILL_BATCH, runs - done));
        return { runs };
      },
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
