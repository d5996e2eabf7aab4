import { setTimeout as pause } from 'node:timers/promises';
import { ConnectError } from '@connectrpc/connect';
import { WatchKind, type WatchRunsResponse } from '../../gen/baton/v1/job_service_pb.js';
import type { RunEvent } from '../../gen/baton/v1/run_event_pb.js';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import type { Prng } from '../support/log_prng.js';
import { runTextOfProto, textOfProto } from '../support/chaos_canonical.js';
import { toProtoFilter, type FilterSpec } from './filters.js';
import type { ChaosServer } from '../support/chaos_servers.js';
import { withSlack } from '../support/wait.js';
import { connectStream, type Connection, type Protocol } from './transports.js';

const BOOKMARK_S = 2n;
/** A client that has not even seen a bookmark for so long goes elsewhere. */
const SILENCE_MS = 7000;
/** The promise is 1 s; a machine that is shared with the whole harness gets some more before it is a failure. */
const OPEN_LIMIT_MS = 3000;

export interface WatcherSpec {
  readonly name: string;
  readonly protocol: Protocol;
  readonly filter: FilterSpec;
  readonly payload?: boolean;
  readonly fromOldest?: boolean;
  /** Begins with the state, and begins anew now and then. */
  readonly withState?: boolean;
  /** Takes its time over each message. */
  readonly slow?: boolean;
}

export interface Received {
  readonly revision: bigint;
  readonly runId: string;
  readonly version: bigint;
  readonly text: string;
}

/** A message that promises a place: everything that matches up to `revision` was sent before it or with it. */
export interface Covered {
  readonly revision: bigint;
  /** Events that had been received by then. */
  readonly events: number;
  readonly at: number;
  /** Whether the server hears notifications; one that only polls is slower by design. */
  readonly listening: boolean;
}

/** What a stream received without a gap that it was told of, over any number of connections. */
export interface Segment {
  /** The revision after which it begins. */
  start: bigint | undefined;
  readonly events: Received[];
  readonly promises: Covered[];
  /** Runs as of `start`, when the segment began with the state. */
  state: Map<string, string> | undefined;
  /** Revisions at which a connection was opened and the one that was asked for. */
  readonly resumed: { readonly asked: bigint; readonly opened: bigint }[];
}

/** Texts are shared between streams: most of them receive the same. */
export class Texts {
  readonly #known = new Map<string, string>();

  share(text: string): string {
    const known = this.#known.get(text);
    if (known !== undefined) return known;
    this.#known.set(text, text);
    return text;
  }
}

export interface WatcherContext {
  readonly servers: readonly ChaosServer[];
  readonly texts: Texts;
  /** Whether nothing is broken now: only then is the time to open held against the server. */
  readonly isCalm: () => boolean;
}

const newSegment = (): Segment => ({
  start: undefined,
  events: [],
  promises: [],
  state: undefined,
  resumed: [],
});

/** A client as the documentation wants it: keeps its last token, and goes on from it wherever it can. */
export class Watcher {
  readonly spec: WatcherSpec;
  readonly #context: WatcherContext;
  readonly #random: Prng;
  readonly segments: Segment[] = [newSegment()];
  readonly #stop = new AbortController();
  #attempt: AbortController | undefined;
  #running: Promise<void> | undefined;
  #token = '';
  #tokenRevision = 0n;
  #lastSeenAt = 0;
  #reading = false;
  /** Of the attempt under way: whether nothing was broken when it began, and whether it was answered. */
  #calm = false;
  #opened = false;
  #listening = false;
  resumes = 0;
  messages = 0;
  bookmarks = 0;
  /** Ends by reason, to see which faults were felt. */
  readonly ends = new Map<string, number>();
  /** Broken promises that need no truth to see. */
  readonly faults: string[] = [];
  slowestOpenMs = 0;
  #hurries = false;
  tooOld = 0;

  constructor(spec: WatcherSpec, context: WatcherContext, random: Prng) {
    this.spec = spec;
    this.#context = context;
    this.#random = random;
  }

  /** Everything up to here was received. */
  get position(): bigint {
    return this.#tokenRevision;
  }

  get #segment(): Segment {
    const segment = this.segments.at(-1);
    if (segment === undefined) throw new Error('a watcher has at least one segment');
    return segment;
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    this.#attempt?.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const server = this.#random.pick(this.#context.servers);
      const attempt = new AbortController();
      this.#attempt = attempt;
      this.#listening = server.listening;
      const connection = connectStream(server, this.spec.protocol);
      this.#lastSeenAt = performance.now();
      this.#calm = this.#context.isCalm();
      this.#opened = false;
      const watchdog = setInterval(() => {
        if (this.#reading || performance.now() - this.#lastSeenAt <= SILENCE_MS || attempt.signal.aborted)
          return;
        if (!this.#opened) this.#noteOpen(performance.now() - this.#lastSeenAt);
        attempt.abort();
      }, 250);
      // Some streams begin anew after a while, as a client that was restarted would.
      const renew = this.spec.withState === true ? setTimeout(() => this.#renew(attempt), 9000) : undefined;
      try {
        await this.#watch(connection, attempt.signal);
        this.#count('ended well');
      } catch (error) {
        this.#failed(error);
      } finally {
        clearInterval(watchdog);
        clearTimeout(renew);
        attempt.abort();
        connection.close();
      }
      if (!this.#stop.signal.aborted) await pause(this.#random.between(20, 300));
    }
  }

  #renew(attempt: AbortController): void {
    this.#begin();
    attempt.abort();
  }

  #begin(): void {
    this.segments.push(newSegment());
    this.#token = '';
  }

  #failed(error: unknown): void {
    if (this.#stop.signal.aborted) return;
    const reason = reasonOf(error);
    this.#count(reason);
    if (reason === 'RESUME_TOKEN_TOO_OLD') {
      // Told loudly that there is a gap: what follows stands for itself.
      this.tooOld += 1;
      this.#begin();
    } else if (reason.startsWith('RESUME_TOKEN') || reason === 'INVALID_ARGUMENT') {
      this.faults.push(`${reason} after revision ${this.#tokenRevision}`);
      this.#begin();
    } else if (reason === 'INTERNAL') {
      this.faults.push(`ended with INTERNAL: ${String(error)}`);
    }
  }

  #count(reason: string): void {
    this.ends.set(reason, (this.ends.get(reason) ?? 0) + 1);
  }

  async #watch(connection: Connection, signal: AbortSignal): Promise<void> {
    const segment = this.#segment;
    const resuming = this.#token !== '';
    const asked = this.#tokenRevision;
    const withState = this.spec.withState === true && !resuming;
    const after = resuming ? this.#token : this.spec.fromOldest === true ? 'oldest' : '';
    if (!resuming) {
      segment.start = undefined;
      segment.state = withState ? new Map() : undefined;
    } else {
      this.resumes += 1;
    }
    const openedFrom = performance.now();
    const request = {
      filter: toProtoFilter(this.spec.filter),
      after,
      includeState: withState,
      includePayload: this.spec.payload === true,
      bookmarkInterval: { seconds: BOOKMARK_S, nanos: 0 },
    };
    for await (const message of connection.watch(request as never, signal)) {
      this.#lastSeenAt = performance.now();
      if (segment !== this.#segment || signal.aborted) return;
      if (message.kind === WatchKind.OPENED) {
        this.#opened = true;
        this.#noteOpen(performance.now() - openedFrom);
        if (resuming) segment.resumed.push({ asked, opened: message.revision });
        else if (!withState) segment.start = message.revision;
      }
      this.#take(segment, message);
      if (this.spec.slow === true && !this.#hurries) {
        this.#reading = true;
        await pause(this.#random.between(50, 400), undefined, { signal }).catch(() => undefined);
        this.#reading = false;
        this.#lastSeenAt = performance.now();
      }
    }
  }

  /** From now on it reads as fast as it can, so that it comes to the end of what a slow reader has left behind. */
  hurry(): void {
    this.#hurries = true;
  }

  /** A stream that was given up before it was opened counts with the time until then. */
  #noteOpen(tookMs: number): void {
    if (!this.#calm || !this.#context.isCalm()) return;
    this.slowestOpenMs = Math.max(this.slowestOpenMs, tookMs);
    if (tookMs > withSlack(OPEN_LIMIT_MS))
      this.faults.push(
        `${this.#opened ? 'opened' : 'not opened'} after ${Math.round(tookMs)} ms on healthy servers`,
      );
  }

  #take(segment: Segment, message: WatchRunsResponse): void {
    this.messages += 1;
    if (message.kind === WatchKind.BOOKMARK) this.bookmarks += 1;
    if (message.kind === WatchKind.STATE) {
      for (const event of message.events) this.#takeState(segment, event);
      return;
    }
    if (message.kind === WatchKind.STATE_END) segment.start = message.revision;
    // First all of them, so that a message is taken whole or not at all.
    segment.events.push(...message.events.map((event) => this.#receive(event)));
    if (message.resumeToken === '') return;
    segment.promises.push({
      revision: message.revision,
      events: segment.events.length,
      at: Date.now(),
      listening: this.#listening,
    });
    this.#token = message.resumeToken;
    this.#tokenRevision = message.revision;
  }

  #takeState(segment: Segment, { run }: RunEvent): void {
    if (run === undefined) this.faults.push('a state without a run');
    else if (segment.state?.has(run.id) === true) this.faults.push(`run ${run.id} is twice in one state`);
    else segment.state?.set(run.id, this.#context.texts.share(runTextOfProto(run)));
  }

  #receive(event: RunEvent): Received {
    const { bare, payload } = textOfProto(event);
    const withPayload = this.spec.payload === true;
    if (!withPayload && payload !== '[null,null,null]')
      this.faults.push(`event ${event.revision} carries a payload that was not asked for`);
    return {
      revision: event.revision,
      runId: event.run?.id ?? '',
      version: event.version,
      text: this.#context.texts.share(withPayload ? bare + payload : bare),
    };
  }
}

/** The service's own reason where it gave one, else the code of the transport. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof ConnectError)) {
    const reason = grpcJsReason(error);
    if (reason !== undefined) return reason;
  }
  const connectError = ConnectError.from(error);
  return connectError.findDetails(ErrorInfoSchema)[0]?.reason ?? `code ${connectError.code}`;
}

/** grpc-js leaves the details in the metadata. The names of reasons are text in there, whatever is around them. */
function grpcJsReason(error: unknown): string | undefined {
  const { metadata, code } = error as { metadata?: { get?: (key: string) => unknown[] }; code?: unknown };
  if (typeof code !== 'number' || typeof metadata?.get !== 'function') return undefined;
  const [bytes] = metadata.get('grpc-status-details-bin');
  const text = Buffer.isBuffer(bytes) ? bytes.toString('latin1') : '';
  return /[A-Z]+(?:_[A-Z]+)+|INTERNAL|OVERLOADED|CANCELED/.exec(text)?.[0] ?? `code ${code}`;
}
