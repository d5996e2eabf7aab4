import { isDeepStrictEqual } from 'node:util';
import { pipelineNamed, PIPELINES, type ModelPipeline, type ModelStage } from './definitions.js';

export type Json = Readonly<Record<string, string | number>>;
export type State = 'PENDING' | 'ACTIVE' | 'SUCCEEDED' | 'FAILED' | 'CANCELED';

/** What a run shows of itself: the fields that every answer and every event is compared in. */
export interface View {
  status: string;
  stage: string;
  state: State;
  attempt: number;
  maxAttempts: number;
  version: number;
  cancelRequested: boolean;
  error: { readonly code: string; readonly message: string } | undefined;
  output: Json | undefined;
  checkpoint: Json | undefined;
  progress: number;
  statusMessage: string;
  workerId: string;
  /** Whether a lease is shown. */
  leased: boolean;
}

export interface ModelEvent {
  readonly type: string;
  readonly previousStatus: string;
  readonly view: View;
}

export interface Report {
  readonly status: string;
  readonly output: Json | undefined;
  readonly error:
    | {
        readonly code: string;
        readonly message: string;
        readonly retryable: boolean;
        readonly delayMs: number | undefined;
      }
    | undefined;
  readonly progress: number | undefined;
  readonly statusMessage: string | undefined;
  readonly checkpoint: Json | undefined;
}

export interface ModelRun {
  readonly id: string;
  readonly pipeline: ModelPipeline;
  readonly key: string;
  readonly priority: number;
  readonly ownMaxAttempts: number;
  view: View;
  readonly history: ModelEvent[];
  /** The place in the order of claims among runs of one priority, and how far off the time is; 0 when due. */
  turn: number;
  dueInMs: number;
  endedStage: string;
  token: string | undefined;
  claimRequest: string;
  /** How leases were ended by their own workers. */
  readonly ends: Map<string, { readonly report: Report; readonly canceledByRequest: boolean }>;
}

export type Outcome =
  'OK' | 'UNCHANGED' | 'UNCHANGED or LEASE_LOST' | 'LEASE_LOST' | 'STATUS_NOT_ALLOWED' | 'INVALID_ARGUMENT';

export interface Place {
  readonly pipeline: string;
  readonly stage: string;
}

/** Sections 2 and 3 of the design, as a program of its own: what runs are and what may become of them. */
export class Model {
  readonly runs: ModelRun[] = [];
  readonly paused = new Set<string>();
  readonly #requests = new Map<string, string>();
  #turn = 0;

  run(id: string): ModelRun {
    const found = this.runs.find((run) => run.id === id);
    if (found === undefined) throw new Error(`the model has no run ${id}`);
    return found;
  }

  known(requestId: string): string | undefined {
    return this.#requests.get(requestId);
  }

  create(
    id: string,
    fields: {
      pipeline: string;
      key: string;
      priority: number;
      maxAttempts: number;
      dueInMs: number;
      requestId: string;
    },
  ): ModelRun {
    const pipeline = pipelineNamed(fields.pipeline);
    const [first] = pipeline.stages;
    if (first === undefined) throw new Error('a pipeline without stages');
    if (fields.requestId !== '') this.#requests.set(fields.requestId, id);
    const run: ModelRun = {
      ...{ id, pipeline, key: fields.key, priority: fields.priority, ownMaxAttempts: fields.maxAttempts },
      ...{
        turn: (this.#turn += 1),
        dueInMs: fields.dueInMs,
        endedStage: '',
        token: undefined,
        claimRequest: '',
      },
      view: {
        ...{ status: first.waiting, stage: first.name, state: 'PENDING', attempt: 0, version: 0 },
        ...{ maxAttempts: fields.maxAttempts === 0 ? first.maxAttempts : fields.maxAttempts },
        ...{ cancelRequested: false, error: undefined, output: undefined, checkpoint: undefined },
        ...{ progress: 0, statusMessage: '', workerId: '', leased: false },
      },
      history: [],
      ends: new Map(),
    };
    this.runs.push(run);
    this.#commit(run, 'CREATED', '', {});
    return run;
  }

  #commit(run: ModelRun, type: string, previousStatus: string, change: Partial<View>): void {
    run.view = { ...run.view, ...change, version: run.view.version + 1 };
    run.history.push({ type, previousStatus, view: { ...run.view } });
  }

  /** What says nothing new is no change. */
  #tell(run: ModelRun, news: Partial<View>): void {
    if (isDeepStrictEqual({ ...run.view, ...news }, run.view)) return;
    this.#commit(run, 'UPDATED', run.view.status, news);
  }

  stageOf({ pipeline, view }: ModelRun): ModelStage | undefined {
    return pipeline.stages.find(({ name }) => name === view.stage);
  }

  #attempts(run: ModelRun, stage: ModelStage): number {
    return run.ownMaxAttempts === 0 ? stage.maxAttempts : run.ownMaxAttempts;
  }

  /** The run waits, now or later. */
  #wait(run: ModelRun, type: string, stage: ModelStage, dueInMs: number, change: Partial<View>): void {
    const moved = stage.name !== run.view.stage;
    run.token = undefined;
    run.turn = this.#turn += 1;
    run.dueInMs = dueInMs;
    this.#commit(run, type, run.view.status, {
      ...{ status: stage.waiting, stage: stage.name, state: 'PENDING', leased: false },
      ...(moved
        ? { attempt: 0, maxAttempts: this.#attempts(run, stage), checkpoint: undefined, error: undefined }
        : {}),
      ...change,
    });
  }

  #end(run: ModelRun, state: 'SUCCEEDED' | 'FAILED' | 'CANCELED', change: Partial<View>): void {
    const { pipeline, view } = run;
    const last = pipeline.stages.at(-1)?.done ?? '';
    const status = { SUCCEEDED: last, FAILED: pipeline.error, CANCELED: pipeline.canceled }[state];
    run.endedStage = view.stage;
    run.token = undefined;
    const won = state === 'SUCCEEDED' ? { error: undefined, progress: 1 } : {};
    this.#commit(run, state, view.status, { status, stage: '', state, leased: false, ...change, ...won });
  }

  /** Which runs a claim has to give, in this order. */
  due({ pipeline, stage }: Place, maxRuns: number): ModelRun[] {
    const rules = pipelineNamed(pipeline).stages.find(({ name }) => name === stage);
    if (rules === undefined || this.paused.has(pipeline) || this.paused.has(`${pipeline}/${stage}`))
      return [];
    const here = this.runs.filter((run) => run.pipeline.name === pipeline && run.view.stage === stage);
    const active = here.filter(({ view }) => view.state === 'ACTIVE');
    const order = (a: ModelRun, b: ModelRun): number =>
      b.priority - a.priority || a.turn - b.turn || (a.id < b.id ? -1 : 1);
    const taken: ModelRun[] = [];
    for (const run of here
      .filter(({ view, dueInMs }) => view.state === 'PENDING' && dueInMs === 0)
      .sort(order)) {
      const all = active.length + taken.length;
      const ofKey = [...active, ...taken].filter(({ key }) => key === run.key).length;
      if (taken.length === maxRuns || (rules.maxActive > 0 && all >= rules.maxActive)) break;
      if (rules.maxActivePerKey === 0 || run.key === '' || ofKey < rules.maxActivePerKey) taken.push(run);
    }
    return taken;
  }

  /** Claims of the same worker under the same request_id that live. */
  remembered({ pipeline, stage }: Place, workerId: string, requestId: string): ModelRun[] {
    if (requestId === '') return [];
    return this.runs.filter(
      (run) =>
        run.token !== undefined &&
        run.claimRequest === requestId &&
        run.view.workerId === workerId &&
        run.pipeline.name === pipeline &&
        run.view.stage === stage,
    );
  }

  claim(run: ModelRun, workerId: string, requestId: string, token: string): void {
    const stage = this.stageOf(run);
    run.token = token;
    run.claimRequest = requestId;
    this.#commit(run, 'CLAIMED', run.view.status, {
      ...{ status: stage?.processing ?? '', state: 'ACTIVE', attempt: run.view.attempt + 1, workerId },
      ...{ progress: 0, statusMessage: '', error: undefined, leased: true },
    });
  }

  /** What has to come of a report; `OK` has been carried out. */
  report(run: ModelRun, token: string, report: Report): Outcome {
    const stage = this.stageOf(run);
    if (run.token !== token || stage === undefined) {
      const end = run.ends.get(token);
      if (end === undefined) return 'LEASE_LOST';
      if (isDeepStrictEqual(end.report, report)) return 'UNCHANGED';
      return isMuchTheSame(end.report, report) || end.canceledByRequest
        ? 'UNCHANGED or LEASE_LOST'
        : 'LEASE_LOST';
    }
    const { pipeline, view } = run;
    const allowed = [stage.done, pipeline.error, pipeline.canceled, stage.waiting, stage.processing];
    if (!allowed.includes(report.status)) return 'STATUS_NOT_ALLOWED';
    const wrongError = report.error !== undefined && report.status !== pipeline.error;
    const wrongOutput =
      report.output !== undefined && [pipeline.canceled, stage.waiting].includes(report.status);
    if (wrongError || wrongOutput) return 'INVALID_ARGUMENT';
    const news = {
      ...(report.output === undefined ? {} : { output: report.output }),
      ...(report.progress === undefined ? {} : { progress: report.progress }),
      ...(report.statusMessage === undefined ? {} : { statusMessage: report.statusMessage }),
      ...(report.checkpoint === undefined ? {} : { checkpoint: report.checkpoint }),
    };
    if (report.status === stage.processing) {
      this.#tell(run, news);
      return 'OK';
    }
    if (report.status === stage.done) this.#complete(run, stage, news);
    else if (report.status === pipeline.error) this.#fail(run, stage, report, news);
    else if (report.status === pipeline.canceled) this.#end(run, 'CANCELED', news);
    else if (view.cancelRequested) this.#end(run, 'CANCELED', { ...news, attempt: view.attempt - 1 });
    else this.#wait(run, 'RELEASED', stage, 0, { ...news, attempt: view.attempt - 1 });
    // The log does not tell a report of the cancel from one that would have made the run wait.
    const canceledByRequest = run.view.state === 'CANCELED' && run.view.cancelRequested;
    run.ends.set(token, { report, canceledByRequest });
    return 'OK';
  }

  #complete(run: ModelRun, stage: ModelStage, news: Partial<View>): void {
    const next = run.pipeline.stages[run.pipeline.stages.indexOf(stage) + 1];
    const change = { ...news, checkpoint: undefined };
    if (next === undefined) this.#end(run, 'SUCCEEDED', change);
    else if (run.view.cancelRequested) this.#end(run, 'CANCELED', change);
    else this.#wait(run, 'STAGE_COMPLETED', next, 0, change);
  }

  #fail(run: ModelRun, stage: ModelStage, { error }: Report, news: Partial<View>): void {
    const { attempt, maxAttempts, cancelRequested } = run.view;
    const change = { ...news, error: { code: error?.code ?? '', message: error?.message ?? '' } };
    const again = error?.retryable === true && attempt < maxAttempts && !cancelRequested;
    if (!again) this.#end(run, 'FAILED', change);
    else this.#wait(run, 'RETRY_SCHEDULED', stage, error.delayMs ?? backoffMs(stage, attempt), change);
  }

  /** @returns whether the lease is held; news are a change */
  extend(
    run: ModelRun,
    token: string,
    news: Partial<Pick<View, 'progress' | 'statusMessage' | 'checkpoint'>>,
  ): boolean {
    if (run.token !== token) return false;
    this.#tell(run, news);
    return true;
  }

  /** The time of a lease is over and its worker has not said anything. */
  expire(run: ModelRun): void {
    const stage = this.stageOf(run);
    if (stage === undefined || run.token === undefined) return;
    const { attempt, maxAttempts, cancelRequested, workerId } = run.view;
    const message = `the lease of worker '${workerId}' ended without a report (attempt ${attempt} of ${maxAttempts})`;
    const error = { code: 'LEASE_EXPIRED', message };
    if (cancelRequested) this.#end(run, 'CANCELED', { error });
    else if (attempt < maxAttempts)
      this.#wait(run, 'LEASE_EXPIRED', stage, backoffMs(stage, attempt), { error });
    else this.#end(run, 'FAILED', { error });
  }

  cancel(run: ModelRun, reason: string): 'OK' | 'RUN_TERMINAL' {
    const { state, cancelRequested, status, statusMessage } = run.view;
    if (state === 'SUCCEEDED' || state === 'FAILED') return 'RUN_TERMINAL';
    const change = { cancelRequested: true, statusMessage: reason === '' ? statusMessage : reason };
    if (state === 'PENDING') this.#end(run, 'CANCELED', change);
    else if (state === 'ACTIVE' && !cancelRequested) this.#commit(run, 'CANCEL_REQUESTED', status, change);
    return 'OK';
  }

  retry(run: ModelRun, stageName: string): 'OK' | 'RUN_NOT_TERMINAL' | 'STAGE_NOT_FOUND' {
    if (run.view.state === 'PENDING' || run.view.state === 'ACTIVE') return 'RUN_NOT_TERMINAL';
    const name = stageName === '' ? run.endedStage : stageName;
    const stage = run.pipeline.stages.find((one) => one.name === name);
    if (stage === undefined) return 'STAGE_NOT_FOUND';
    this.#wait(run, 'RETRIED', stage, 0, { cancelRequested: false, progress: 0, statusMessage: '' });
    return 'OK';
  }

  /** The wait of a run is over: the test has moved its time by SQL, which is a change like any other. */
  comeDue(run: ModelRun): void {
    run.turn = this.#turn += 1;
    run.dueInMs = 0;
    this.#commit(run, 'UPDATED', run.view.status, {});
  }
}

/** Differs in what may be told from a repetition or not: progress, message and checkpoint, or what was left out. */
function isMuchTheSame(first: Report, second: Report): boolean {
  return (
    first.status === second.status &&
    first.error?.code === second.error?.code &&
    first.error?.message === second.error?.message &&
    (second.output === undefined || isDeepStrictEqual(first.output, second.output))
  );
}

export function backoffMs(stage: ModelStage, attempt: number): number {
  return stage.backoffMs * 2 ** (attempt - 1);
}

export const PLACES: readonly Place[] = PIPELINES.flatMap((pipeline) =>
  pipeline.stages.map((stage) => ({ pipeline: pipeline.name, stage: stage.name })),
);
