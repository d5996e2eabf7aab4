import { BatonError, invalidArgument } from '../../base/errors.js';
import { LIMITS } from '../../base/limits.js';
import { Violations } from '../../base/violations.js';
import { RPC_LIMITS } from '../limits.js';
import type { FieldPlan } from './plan.js';

/** The way to where a request is being read; a path is made of it for a violation only. */
type Trail = (string | number)[];

/**
 * Counts what a request holds, before anything of it is built. Each set field counts, each item of a list and each value
 * in an object; how they are written makes no difference.
 */
export class Measure {
  readonly violations = new Violations();
  readonly trail: Trail = [];
  #values = 0;

  /** @throws BatonError INVALID_ARGUMENT when the request holds more than any may */
  add(count: number, field = ''): void {
    this.#values += count;
    if (this.#values <= LIMITS.requestValues) return;
    const path = field === '' ? this.path() : this.path(field);
    const problem = `a request must hold at most ${LIMITS.requestValues} values`;
    if (path === '') throw new BatonError('INVALID_ARGUMENT', problem);
    throw invalidArgument([{ field: path, description: `${problem}, and has more by here` }]);
  }

  /** Of a list or a map, once all of it was counted. */
  judgeItems({ name, limit, items }: FieldPlan, count: number, isInTrail = false): void {
    if (count <= limit) return;
    const path = (): string => (isInTrail ? this.path() : this.path(name));
    this.violations.add(path, `must have at most ${limit} ${items}, has ${count}`);
  }

  /** Of an object, once all of it was counted. */
  judgeStruct(count: number): void {
    if (count > LIMITS.structValues)
      this.violations.add(() => this.path(), `must hold at most ${LIMITS.structValues} values, has ${count}`);
  }

  /** @throws BatonError INVALID_ARGUMENT where messages or objects are too deep inside each other */
  judgeDepth(depth: number): void {
    if (depth <= RPC_LIMITS.messageDepth) return;
    const problem = `must be nested at most ${LIMITS.jsonDepth} deep`;
    const field = this.path();
    if (field === '') throw new BatonError('INVALID_ARGUMENT', `the request ${problem}`);
    throw invalidArgument([{ field, description: problem }]);
  }

  path(...further: Trail): string {
    let path = '';
    for (const part of [...this.trail, ...further]) {
      if (typeof part === 'number') path += `[${part}]`;
      else path += path === '' ? part : `.${part}`;
    }
    return path;
  }
}
