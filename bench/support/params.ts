import type { Params } from './system.js';

/** A number that the benchmark has to give. */
export function param(params: Params, name: string): number {
  const value = params[name];
  if (value === undefined) throw new Error(`the parameter ${name} is missing`);
  return value;
}
