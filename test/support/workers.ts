import type { Client, Interceptor } from '@connectrpc/connect';
import type { JobService } from '../../gen/baton/v1/job_service_pb.js';
import { EventType, type RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import type { Run } from '../../gen/baton/v1/run_pb.js';
import {
  worker,
  type RunContext,
  type RunHandler,
  type Worker,
  type WorkerErrorContext,
  type WorkerServer,
  type WorkerSettings,
} from '../../src/client/index.js';
import { Signal, waitFor, within } from './wait.js';

/** One call of a handler, which ends when the test says so. */
export class Work {
  readonly run: Run;
  readonly context: RunContext;
  /** Why the signal has fired. */
  aborted: unknown;
  readonly #end = new Signal<() => unknown>();

  constructor(run: Run, context: RunContext) {
    this.run = run;
    this.context = context;
    context.signal.addEventListener('abort', () => (this.aborted = context.signal.reason));
  }

  get ended(): Promise<() => unknown> {
    return this.#end.promise;
  }

  return(value?: unknown): void {
    this.#end.send(() => value);
  }

  throw(error: Error): void {
    this.#end.send(() => {
      throw error;
    });
  }
}

/** A worker whose handlers wait for the test, and what it told. Handlers that are told to stop throw, as they should. */
export class TestWorker {
  readonly worker: Worker;
  readonly works: Work[] = [];
  readonly errors: { readonly error: Error; readonly context: WorkerErrorContext }[] = [];

  constructor(
    server: WorkerServer,
    settings: Partial<WorkerSettings>,
    handler?: RunHandler,
    ignoresAbort = false,
  ) {
    this.worker = worker({
      stage: 'initialize',
      onError: (error, context) => this.errors.push({ error, context }),
      handler:
        handler ??
        (async (run, context) => {
          const work = new Work(run, context);
          this.works.push(work);
          if (ignoresAbort) return (await work.ended)();
          const end = await Promise.race([work.ended, aborted(context.signal)]);
          return end();
        }),
      ...settings,
      ...server,
    });
  }

  /** The handler's call with this number, from 0. */
  async work(index: number, timeoutMs = 15_000): Promise<Work> {
    await waitFor(() => this.works.length > index, `call ${index} of the handler`, timeoutMs);
    return this.works[index]!;
  }

  async aborted(index: number, timeoutMs = 15_000): Promise<unknown> {
    await waitFor(
      () => this.works[index]?.aborted !== undefined,
      `call ${index} of the handler to be aborted`,
      timeoutMs,
    );
    return this.works[index]?.aborted;
  }

  async stop(timeoutMs = 20_000): Promise<void> {
    await within(this.worker.stop(), 'the worker to stop', timeoutMs);
  }
}

function aborted(signal: AbortSignal): Promise<() => never> {
  return new Promise((resolve) =>
    signal.addEventListener('abort', () =>
      resolve(() => {
        throw signal.reason as Error;
      }),
    ),
  );
}

/** Counts the calls of a transport by the names of their methods. */
export class CallCounter {
  readonly calls = new Map<string, number>();

  readonly interceptor: Interceptor = (next) => (request) => {
    const { name } = request.method;
    this.calls.set(name, this.count(name) + 1);
    return next(request);
  };

  count(name: string): number {
    return this.calls.get(name) ?? 0;
  }
}

/** What happened to a run, in short: `CLAIMED initializing`. */
export async function story(jobs: Client<typeof JobService>, runId: string): Promise<string[]> {
  const { events } = await jobs.listRunEvents({ runId, pageSize: 1000 });
  return events.map((event: RunEvent) => `${EventType[event.type]} ${event.run?.status}`);
}
