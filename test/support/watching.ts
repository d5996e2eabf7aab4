import type { Client } from '@connectrpc/connect';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type {
  JobService,
  WatchRunsRequestSchema,
  WatchRunsResponse,
} from '../../gen/baton/v1/job_service_pb.js';
import { WatchKind } from '../../gen/baton/v1/job_service_pb.js';
import type { RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { Signal, waitFor, within } from './wait.js';

/** A watch that collects everything it receives, and how it ended. */
export class Watching {
  readonly messages: WatchRunsResponse[] = [];
  readonly events: RunEvent[] = [];
  /** Undefined while the stream is open and after it ended well. */
  error: unknown;
  ended = false;
  readonly #abort = new AbortController();
  readonly #opened = new Signal();
  readonly #done: Promise<void>;

  constructor(
    jobs: Client<typeof JobService>,
    request: MessageInitShape<typeof WatchRunsRequestSchema> = {},
  ) {
    this.#done = this.#run(jobs, request);
  }

  async #run(
    jobs: Client<typeof JobService>,
    request: MessageInitShape<typeof WatchRunsRequestSchema>,
  ): Promise<void> {
    try {
      for await (const message of jobs.watchRuns(request, { signal: this.#abort.signal })) {
        this.messages.push(message);
        this.events.push(...message.events);
        if (message.kind === WatchKind.OPENED) this.#opened.send();
      }
    } catch (error) {
      this.error = error;
    }
    this.ended = true;
    this.#opened.send();
  }

  /** Waits for the first message; fails when the stream ended instead. */
  async opened(): Promise<this> {
    await within(this.#opened.promise, 'the stream to open');
    if (this.messages.length === 0) throw this.error;
    return this;
  }

  async hasEvents(count: number): Promise<void> {
    await waitFor(() => this.events.length >= count || this.ended, `${count} events`);
    if (this.events.length < count)
      throw new Error(`the stream ended after ${this.events.length} events`, { cause: this.error });
  }

  get lastToken(): string {
    return this.messages.at(-1)?.resumeToken ?? '';
  }

  async end(): Promise<void> {
    await within(this.#done, 'the stream to end');
  }

  async cancel(): Promise<void> {
    this.#abort.abort();
    await this.end();
  }
}
