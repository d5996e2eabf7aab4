import { BatonError } from '../base/errors.js';
import type { Run } from '../run/run.js';
import { fitRun } from '../run/run_size.js';
import type { Queryable } from '../store/pool.js';
import { getRun as selectRun } from '../store/sql/get_run.js';
import { Checks } from './validate.js';

export function runNotFound(id: string): BatonError {
  return new BatonError('RUN_NOT_FOUND', `there is no run ${id}`, { metadata: { run_id: id } });
}

/** The run with its payload. */
export async function getRun(db: Queryable, id: string): Promise<Run> {
  const found = new Checks();
  found.uuid('id', id);
  found.throwIfAny();
  const run = await selectRun(db, id);
  if (run === undefined) throw runNotFound(id);
  // As large as it is, and without what cannot be encoded.
  return fitRun(run, Number.MAX_SAFE_INTEGER);
}
