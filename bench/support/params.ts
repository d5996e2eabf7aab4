import type { Params } from './system.js';

/** Params of `inBatches`. */
export function batches(params: Params): { total: number; batch: number; inFlight: number } {
  return {
    total: param(params, 'total'),
    batch: param(params, 'batch'),
    inFlight: param(params, 'inFlight'),
  };
}

/** Params of `OpenLoop`. */
export function schedule(params: Params): { rate: number; seconds: number; warmUp: number } {
  return { rate: param(params, 'rate'), seconds: param(params, 'seconds'), warmUp: param(params, 'warmUp') };
}

/** Params of `claimLoop`. */
export function claimLoad(params: Params): { inFlight: number; claims: number; seconds: number } {
  return { ...load(params), claims: param(params, 'claims') };
}

/** Params of `closedLoop`. */
export function load(params: Params): { inFlight: number; seconds: number } {
  return { inFlight: param(params, 'inFlight'), seconds: param(params, 'seconds') };
}

/** A number that the benchmark has to give. */
export function param(params: Params, name: string): number {
  const value = params[name];
  if (value === undefined) throw new Error(`the parameter ${name} is missing`);
  return value;
}
