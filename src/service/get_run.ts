import { BatonError, throwIfAborted } from '../base/errors.js';
import type { Room } from '../base/room.js';
import type { Run } from '../run/run.js';
import { fitRun } from '../run/run_size.js';
import type { Queryable } from '../store/pool.js';
import { getLightRun, getRun as selectRun } from '../store/sql/get_run.js';
import type { CallContext } from './api.js';
import { Checks } from './validate.js';

export function runNotFound(id: string): BatonError {
  return new BatonError('RUN_NOT_FOUND', `there is no run ${id}`, { metadata: { run_id: id } });
}

/**
 * The run with its payload.
 *
 * @param room what is large is read in it, so that many at once do not take every connection, and each core, from others
 */
export async function getRun(
  db: Queryable,
  id: string,
  room: Room,
  { signal }: Pick<CallContext, 'signal'>,
): Promise<Run> {
  const found = new Checks();
  found.uuid('id', id);
  found.throwIfAny();
  let run = await getLightRun(db, id);
  if (run?.payloadOmitted === true) {
    run = await room.use(1, () => {
      throwIfAborted(signal);
      return selectRun(db, id);
    });
  }
  if (run === undefined) throw runNotFound(id);
  // As large as it is, and without what cannot be encoded.
  return fitRun(run, Number.MAX_SAFE_INTEGER);
}
