import { createHash } from 'node:crypto';
import type { Clock } from '../base/clock.js';
import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { canonicalJson } from '../run/json.js';
import { PIPELINE_DEFAULTS } from '../run/pipeline.js';
import type { Run } from '../run/run.js';
import { shortenRuns } from '../run/run_size.js';
import type { Pool, Queryable } from '../store/pool.js';
import { createRuns, type NewRun } from '../store/sql/create_runs.js';
import { findRequests } from '../store/sql/find_requests.js';
import { getPipelineNames } from '../store/sql/get_pipelines.js';
import type { CallContext, CreateRunRequest } from './api.js';
import { GroupCommit, type GroupCommitOptions, type Outcome } from './group_commit.js';
import { Checks } from './validate.js';

/** @returns the input as JSON text */
export function validateCreate(found: Checks, request: CreateRunRequest): string | undefined {
  if (request.pipeline !== '') found.name('pipeline', request.pipeline);
  found.text('repository', request.repository, LIMITS.repositoryChars);
  found.labels('labels', request.labels);
  const input = found.payload('input', request.input, LIMITS.payloadBytes);
  found.integer('priority', request.priority, 0, LIMITS.priorityMax);
  found.text('concurrency_key', request.concurrencyKey, LIMITS.concurrencyKeyChars);
  found.integer('max_attempts', request.maxAttempts, 0, LIMITS.attemptsMax);
  found.requestId('request_id', request.requestId);
  found.traceParent('trace_parent', request.traceParent);
  const time = request.scheduleTime?.getTime();
  if (time !== undefined && time > Date.now() + LIMITS.scheduleMaxMs) {
    found.add('schedule_time', `must be at most ${LIMITS.scheduleMaxMs / 86_400_000} days ahead`);
  }
  return input;
}

/** The same of many. */
export function validateCreates(
  found: Checks,
  requests: readonly CreateRunRequest[],
): (string | undefined)[] {
  found.items('requests', requests.length);
  return requests.map((request, index) => validateCreate(found.at(`requests[${index}]`), request));
}

/** What makes two requests with one request_id the same. The trace is that of the call and not of the content. */
function contentHash(request: CreateRunRequest): Buffer {
  const content = canonicalJson({ ...request, requestId: undefined, traceParent: undefined });
  return createHash('sha256').update(content).digest();
}

function newRun(request: CreateRunRequest, input: string | undefined): NewRun {
  const { pipeline, repository, labels, priority, scheduleTime, concurrencyKey, maxAttempts } = request;
  const { requestId, traceParent } = request;
  // By name: a spread of the request took 4 µs more a call, most of it the collection of garbage.
  return {
    pipeline,
    repository,
    labels,
    input,
    priority,
    scheduleTime,
    concurrencyKey,
    maxAttempts,
    requestId,
    requestHash: requestId === '' ? undefined : contentHash(request),
    traceParent,
  };
}

function reused(requestId: string): BatonError {
  return new BatonError(
    'REQUEST_ID_REUSED',
    `request_id ${JSON.stringify(requestId)} was used for a run with other content`,
    {
      metadata: { request_id: requestId },
    },
  );
}

/** For each run the first one with its request_id; a second use of an id with other content in one batch is refused. */
function firstOfEachRequest(runs: readonly NewRun[]): NewRun[] {
  const first = new Map<string, NewRun>();
  return runs.map((run) => {
    if (run.requestId === '') return run;
    const earlier = first.get(run.requestId);
    if (earlier === undefined) {
      first.set(run.requestId, run);
      return run;
    }
    if (run.requestHash === undefined || earlier.requestHash?.equals(run.requestHash) !== true)
      throw reused(run.requestId);
    return earlier;
  });
}

/** What became of each run: the new one, the first one with its request_id, or why it was refused. */
async function insert(
  db: Queryable,
  runs: readonly NewRun[],
  allOrNothing: boolean,
): Promise<(Run | BatonError)[]> {
  const created = await createRuns(db, runs, allOrNothing);
  const missing = runs.filter((run) => !created.has(run));
  if (missing.length === 0) return runs.map((run) => created.get(run) ?? removed(run));
  // Of their own, because their snapshot has to see what the insert met.
  const known = await findRequests(
    db,
    missing.filter(({ requestId }) => requestId !== ''),
  );
  const pipelines = await getPipelineNames(db, [...new Set(missing.map(({ pipeline }) => pipeline))]);
  return runs.map((run) => {
    const made = created.get(run);
    if (made !== undefined) return made;
    const earlier = known.get(run.requestId);
    if (earlier !== undefined) return earlier.same ? earlier.run : reused(run.requestId);
    return pipelines.includes(run.pipeline) ? removed(run) : unknownPipeline(run.pipeline);
  });
}

/** The run that was in the way of the insert has gone since. */
function removed({ requestId }: NewRun): BatonError {
  return new BatonError(
    'DATABASE_UNAVAILABLE',
    `the run of request_id ${JSON.stringify(requestId)} was just removed`,
  );
}

function unknownPipeline(...names: readonly string[]): BatonError {
  return new BatonError(
    'PIPELINE_NOT_FOUND',
    `there is no pipeline ${names.map((name) => JSON.stringify(name)).join(', ')}`,
    { metadata: { pipeline: names.join(',') } },
  );
}

/** The runs of a batch of which none may be refused. */
async function insertAll(db: Queryable, runs: readonly NewRun[]): Promise<Run[]> {
  const firsts = firstOfEachRequest(runs);
  const distinct = [...new Set(firsts)];
  const outcomes = await insert(db, distinct, true);
  const refusals = outcomes.filter((outcome) => outcome instanceof BatonError);
  const unknown = refusals.filter(({ reason }) => reason === 'PIPELINE_NOT_FOUND');
  if (unknown.length > 0)
    throw unknownPipeline(...new Set(unknown.map(({ metadata }) => metadata.pipeline ?? '')));
  if (refusals[0] !== undefined) throw refusals[0];
  const byRun = new Map(distinct.map((run, index) => [run, outcomes[index]]));
  return firsts.map((run) => {
    const made = byRun.get(run);
    if (made === undefined || made instanceof BatonError) throw new Error('a run has no outcome');
    return made;
  });
}

export class CreateRuns {
  /**
   * A request_id that somebody holds in an open transaction makes a whole group wait, so those who name one are kept
   * from those who do not.
   */
  readonly plain: GroupCommit<NewRun, Run>;
  readonly named: GroupCommit<NewRun, Run>;
  readonly #pool: Pool;
  readonly #onCommitted: (runs: readonly Run[]) => void;

  /** @param onCommitted told of runs that wait now */
  constructor(pool: Pool, clock: Clock, onCommitted: (runs: readonly Run[]) => void) {
    this.#pool = pool;
    this.#onCommitted = onCommitted;
    const options: Omit<GroupCommitOptions<NewRun, Run>, 'name'> = {
      limits: LIMITS.groups,
      clock,
      weigh: (run) => run.input?.length ?? 0,
      keys: ({ requestId }) => (requestId === '' ? [] : [requestId]),
      together: async (runs) => {
        const made = await insert(pool, runs, false);
        onCommitted(made.flatMap((run) => (run instanceof BatonError ? [] : [run])));
        return made.map(toOutcome);
      },
      // In a transaction, because that has a connection which may wait.
      alone: async (run) => {
        const [outcome] = await pool.transaction((tx) => insert(tx, [run], false));
        if (outcome === undefined) throw new Error('an insert of one run has no outcome');
        if (outcome instanceof BatonError) throw outcome;
        onCommitted([outcome]);
        return outcome;
      },
    };
    this.plain = new GroupCommit({ ...options, name: 'create_run' });
    this.named = new GroupCommit({ ...options, name: 'create_run_with_request_id' });
  }

  async createRun(request: CreateRunRequest, call: CallContext): Promise<Run> {
    const filled = withDefaults(request);
    const found = new Checks();
    const input = validateCreate(found, filled);
    found.throwIfAny();
    const group = request.requestId === '' ? this.plain : this.named;
    return group.submit(newRun(filled, input), call.signal);
  }

  /** All or nothing, in the order of the requests. */
  async batchCreateRuns(requests: readonly CreateRunRequest[], call: CallContext): Promise<readonly Run[]> {
    const found = new Checks();
    const inputs = validateCreates(found, requests);
    found.throwIfAny();
    const filled = requests.map(withDefaults);
    throwIfAborted(call.signal);
    const runs = filled.map((request, index) => newRun(request, inputs[index]));
    // One statement commits by itself; only a batch with request ids can turn out to be refused after it.
    const alone = runs.every((run) => run.requestId === '');
    const created = await (alone
      ? insertAll(this.#pool, runs)
      : this.#pool.transaction((tx) => insertAll(tx, runs)));
    this.#onCommitted(created);
    return shortenRuns(created, LIMITS.answerBytes);
  }
}

function toOutcome(result: Run | BatonError): Outcome<Run> {
  return result instanceof BatonError ? { error: result } : { value: result };
}

function withDefaults(request: CreateRunRequest): CreateRunRequest {
  return request.pipeline === '' ? { ...request, pipeline: PIPELINE_DEFAULTS.name } : request;
}
