import { createHash } from 'node:crypto';
import { v7 as uuidV7 } from 'uuid';
import { BatonError, throwIfAborted } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { canonicalJson } from '../run/json.js';
import { PIPELINE_DEFAULTS } from '../run/pipeline.js';
import type { Run } from '../run/run.js';
import type { Pool, Queryable } from '../store/pool.js';
import { createRuns, type NewRun } from '../store/sql/create_runs.js';
import { findRequests, type KnownRequest } from '../store/sql/find_requests.js';
import { getPipelineNames } from '../store/sql/get_pipelines.js';
import { violates } from '../store/violation.js';
import type { CallContext, CreateRunRequest } from './api.js';
import { Violations } from './validate.js';

function validate(found: Violations, request: CreateRunRequest): void {
  found.name('pipeline', request.pipeline);
  found.text('repository', request.repository, LIMITS.repositoryChars);
  found.labels('labels', request.labels);
  found.payload('input', request.input, LIMITS.payloadBytes);
  found.integer('priority', request.priority, 0, LIMITS.priorityMax);
  found.text('concurrency_key', request.concurrencyKey, LIMITS.concurrencyKeyChars);
  found.integer('max_attempts', request.maxAttempts, 0, LIMITS.attemptsMax);
  found.requestId('request_id', request.requestId);
  found.traceParent('trace_parent', request.traceParent);
  const time = request.scheduleTime?.getTime();
  if (time !== undefined && time > Date.now() + LIMITS.scheduleMaxMs) {
    found.add('schedule_time', `must be at most ${LIMITS.scheduleMaxMs / 86_400_000} days ahead`);
  }
}

/** What makes two requests with one request_id the same. The trace is that of the call and not of the content. */
function contentHash(request: CreateRunRequest): Buffer {
  const content = canonicalJson({ ...request, requestId: undefined, traceParent: undefined });
  return createHash('sha256').update(content).digest();
}

function newRun(request: CreateRunRequest): NewRun {
  return {
    ...request,
    id: uuidV7(),
    requestHash: request.requestId === '' ? undefined : contentHash(request),
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

function sameContent(run: NewRun, known: KnownRequest): boolean {
  return run.requestHash !== undefined && known.requestHash?.equals(run.requestHash) === true;
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

async function insert(db: Queryable, runs: readonly NewRun[]): Promise<Run[]> {
  const firsts = firstOfEachRequest(runs);
  const created = await createRuns(db, [...new Set(firsts)]);
  const missing = firsts.filter((run) => !created.has(run.id));
  // Its own statement, because its snapshot has to see what the insert met.
  const known =
    missing.length === 0
      ? undefined
      : await findRequests(
          db,
          missing.map((run) => run.requestId),
        );
  return firsts.map((run) => {
    const made = created.get(run.id);
    if (made !== undefined) return made;
    const earlier = known?.get(run.requestId);
    if (earlier === undefined) {
      throw new BatonError(
        'DATABASE_UNAVAILABLE',
        `the run of request_id ${JSON.stringify(run.requestId)} was just removed`,
      );
    }
    if (!sameContent(run, earlier)) throw reused(run.requestId);
    return earlier.run;
  });
}

/** Says which pipelines of a batch do not exist. */
async function unknownPipeline(db: Queryable, requests: readonly CreateRunRequest[]): Promise<BatonError> {
  const names = [...new Set(requests.map((request) => request.pipeline))];
  const known = await getPipelineNames(db, names);
  const missing = names.filter((name) => !known.includes(name));
  return new BatonError(
    'PIPELINE_NOT_FOUND',
    `there is no pipeline ${missing.map((name) => JSON.stringify(name)).join(', ')}`,
    {
      metadata: { pipeline: missing.join(',') },
    },
  );
}

export class CreateRuns {
  readonly #pool: Pool;

  constructor(pool: Pool) {
    this.#pool = pool;
  }

  async createRun(request: CreateRunRequest, call: CallContext): Promise<Run> {
    const filled = withDefaults(request);
    const found = new Violations();
    validate(found, filled);
    found.throwIfAny();
    const [run] = await this.#insert([filled], call);
    if (run === undefined) throw new Error('an insert of one run returned none');
    return run;
  }

  /** All or nothing, in the order of the requests. */
  async batchCreateRuns(requests: readonly CreateRunRequest[], call: CallContext): Promise<readonly Run[]> {
    const found = new Violations();
    if (requests.length > LIMITS.batchItems) {
      found.add('requests', `must have at most ${LIMITS.batchItems} items, has ${requests.length}`);
      found.throwIfAny();
    }
    const filled = requests.map(withDefaults);
    filled.forEach((request, index) => validate(found.at(`requests[${index}]`), request));
    found.throwIfAny();
    return filled.length === 0 ? [] : this.#insert(filled, call);
  }

  async #insert(requests: readonly CreateRunRequest[], call: CallContext): Promise<Run[]> {
    throwIfAborted(call.signal);
    const runs = requests.map(newRun);
    try {
      // One statement commits by itself; only a batch with request ids can turn out to be refused after it.
      const alone = runs.length === 1 || runs.every((run) => run.requestId === '');
      return await (alone ? insert(this.#pool, runs) : this.#pool.transaction((tx) => insert(tx, runs)));
    } catch (error) {
      if (violates(error, 'runs_pipeline_exists')) throw await unknownPipeline(this.#pool, requests);
      throw error;
    }
  }
}

function withDefaults(request: CreateRunRequest): CreateRunRequest {
  return request.pipeline === '' ? { ...request, pipeline: PIPELINE_DEFAULTS.name } : request;
}
