import { durationFromMs } from '@bufbuild/protobuf/wkt';
import fc from 'fast-check';
import { PLACES, type ModelRun } from './model.js';
import type { ClaimRequest, Rig, Sim } from './rig.js';

const WORKERS = ['ann', 'bob', 'cy'] as const;
/** Longer than any test: a lease ends when a command ends it. */
const LEASE_MS = 3_600_000;

export type ModelCommand = fc.AsyncCommand<Sim, Rig>;

/** A command from what it does; `text` is how a failure shows it. */
export function command(
  text: string,
  run: (sim: Sim, rig: Rig) => Promise<void>,
  check: (sim: Sim) => boolean = () => true,
): ModelCommand {
  return {
    check: (sim) => check(sim as Sim),
    run: async (sim, rig) => {
      rig.note(text.split(' ')[0] ?? text);
      await run(sim, rig);
    },
    toString: () => text,
  };
}

export const server = fc.nat({ max: 1 });
export const pick = fc.nat({ max: 999 });
export const claimFields = fc.record({
  place: fc.constantFrom(...PLACES),
  workerId: fc.constantFrom(...WORKERS),
  maxRuns: fc.integer({ min: 1, max: 3 }),
  named: fc.boolean(),
});
export type ClaimFields = typeof claimFields extends fc.Arbitrary<infer T> ? T : never;

export function claimRequest(sim: Sim, { place, workerId, maxRuns, named }: ClaimFields): ClaimRequest {
  const requestId = named ? sim.name('claim') : '';
  const request = { ...place, workerId, maxRuns, requestId, leaseDuration: durationFromMs(LEASE_MS) };
  if (named) sim.claims.push(request);
  return request;
}

/** What a claim has to give now: what it gave before, or else what is due. */
export function expectedClaims({ model }: Sim, request: ClaimRequest): ModelRun[] {
  const { workerId, requestId, maxRuns } = request;
  const before = model.remembered(request, workerId, requestId);
  const order = (a: ModelRun, b: ModelRun): number => b.priority - a.priority || a.turn - b.turn;
  return before.length > 0 ? before.sort(order) : model.due(request, maxRuns);
}
