import type { Clock, Timer } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Run, RunEvent } from '../run/run.js';
import type { Snapshot } from '../store/pool.js';
import { readHead } from '../store/sql/read_head.js';
import { readState } from '../store/sql/read_state.js';
import { fitEvent, splitEvents, type Chunk, type TakeMessage, type WatchMessage } from './message.js';
import { encodeResumeToken } from './resume_token.js';
import type { SnapshotReader, Snapshots } from './snapshots.js';
import type { Subscription } from './subscription.js';

/** Runs in the smallest page: reading one costs a query. */
const MIN_PAGE_RUNS = 16;

/**
 * A stream that starts with the state: OPENED, the matching runs as STATE, STATE_END{S}, then the changes after S.
 *
 *     opened ──▶ reading the snapshot ──▶ changes        from any: ──▶ ended
 *
 * The runs and S are read in one snapshot, so the changes continue it without gap or overlap. Until STATE_END there is
 * nothing to resume from, so the messages before it carry no token.
 */
export class StateStream implements SnapshotReader {
  readonly #snapshots: Snapshots;
  readonly #clock: Clock;
  readonly #changes: Subscription;
  #phase: 'opened' | 'reading' | 'changes' = 'opened';
  #snapshot: Snapshot | undefined;
  #timer: Timer | undefined;
  /** Why the snapshot was taken from this stream. */
  #lost: BatonError | undefined;
  #epoch = '';
  #revision = 0n;
  #after: string | undefined;
  /** Runs to ask for: about what there was room for the last time, since the rest of a page is read in vain. */
  #pageRuns: number = LIMITS.pageEvents;
  /** Of the page that was read last. */
  #queue: Chunk[] = [];
  /** Of the message that the writer is busy with. */
  #takenBytes = 0;

  /** @param changes a subscription that nobody has pulled yet; it is moved to S */
  constructor(snapshots: Snapshots, clock: Clock, changes: Subscription) {
    this.#snapshots = snapshots;
    this.#clock = clock;
    this.#changes = changes;
    changes.whenEnded(() => {
      snapshots.leave(this);
      void this.#endSnapshot();
    });
  }

  async next(): Promise<WatchMessage | undefined> {
    if (this.#phase === 'changes') return this.#changes.next();
    if (this.#phase === 'opened') {
      this.#phase = 'reading';
      const opened = await this.#changes.next();
      return opened === undefined ? undefined : { ...opened, resumeToken: '' };
    }
    this.#changes.asked();
    this.#changes.stateBytes -= this.#takenBytes;
    this.#takenBytes = 0;
    try {
      const message = this.#take() ?? (await this.#readPage());
      this.#changes.given();
      return message;
    } catch (error) {
      if (!this.#isOver()) this.#changes.endReason = error instanceof BatonError ? error.reason : 'INTERNAL';
      this.close();
      throw error;
    }
  }

  handOver(take: TakeMessage): Promise<void> | undefined {
    return this.#phase === 'changes' ? this.#changes.handOver(take) : undefined;
  }

  /** The next message of what was read. */
  #take(): WatchMessage | undefined {
    const chunk = this.#queue.shift();
    if (chunk === undefined) return undefined;
    this.#takenBytes = chunk.bytes;
    return this.#message('STATE', chunk.events, '');
  }

  async #readPage(): Promise<WatchMessage | undefined> {
    this.#snapshot ??= await this.#begin();
    if (this.#isOver() || this.#snapshot === undefined) return this.#ended();
    this.#throwIfLost();
    const { filter, payload } = this.#changes.view;
    const runs = await readState(this.#snapshot, {
      filter,
      after: this.#after,
      limit: this.#pageRuns,
      payloadBytes: payload ? LIMITS.streamBytes : undefined,
    });
    if (this.#isOver()) return this.#ended();
    // It may have been given back while this was on its way, and then it need not be of the snapshot.
    this.#throwIfLost();
    if (runs.length > 0) {
      this.#hold(runs);
      return this.#take();
    }
    await this.#endSnapshot();
    this.#phase = 'changes';
    this.#changes.moveTo(this.#revision);
    return this.#message(
      'STATE_END',
      [],
      encodeResumeToken({ epoch: this.#epoch, revision: this.#revision }),
    );
  }

  /** Keeps of a page what one stream may hold, at least one run. The rest is read again when that was taken. */
  #hold(runs: readonly Run[]): void {
    const entries = runs.map((run) => fitEvent(this.#entry(run)));
    let count = 0;
    for (const chunk of splitEvents(entries, this.#changes.view.payload)) {
      if (count > 0 && this.#changes.heldBytes + chunk.bytes > LIMITS.streamBytes) break;
      this.#queue.push(chunk);
      this.#changes.stateBytes += chunk.bytes;
      count += chunk.events.length;
    }
    this.#after = runs[count - 1]?.id;
    this.#pageRuns = Math.min(LIMITS.pageEvents, Math.max(MIN_PAGE_RUNS, 2 * count));
  }

  /** Undefined when the stream has ended meanwhile: the reader may be gone, and the connection must not wait for it. */
  async #begin(): Promise<Snapshot | undefined> {
    const snapshot = await this.#snapshots.begin(this);
    if (snapshot === undefined) return undefined;
    try {
      const head = await readHead(snapshot);
      this.#epoch = head.epoch;
      this.#revision = head.revision;
    } catch (error) {
      await snapshot.end();
      throw error;
    }
    if (this.#isOver()) {
      await snapshot.end();
      return undefined;
    }
    this.#timer = this.#clock.after(LIMITS.stateMs, () =>
      this.#lose(`the state was not taken within ${LIMITS.stateMs / 1000} s`),
    );
    return snapshot;
  }

  stalledMs(now: number): number {
    return this.#changes.stalledMs(now);
  }

  giveUp(): void {
    this.#lose('the state was not read, and others wait for theirs');
    if (this.#lost !== undefined) this.#changes.breakOff(this.#lost);
  }

  #throwIfLost(): void {
    if (this.#lost !== undefined) throw this.#lost;
  }

  #lose(message: string): void {
    this.#lost = new BatonError('SLOW_CONSUMER', message, { retryDelayMs: 1000 });
    void this.#endSnapshot();
  }

  /** A run as it is at S. It is no change; transports send it without a type. */
  #entry(run: Run): RunEvent {
    const revision = this.#revision;
    return {
      revision,
      type: 'UPDATED',
      previousStatus: '',
      previousStage: '',
      previousState: undefined,
      run,
    };
  }

  #message(kind: 'STATE' | 'STATE_END', events: readonly RunEvent[], resumeToken: string): WatchMessage {
    return { kind, events, revision: this.#revision, resumeToken, payload: this.#changes.view.payload };
  }

  #isOver(): boolean {
    return this.#changes.state === 'ended';
  }

  /** Without a whole state there is no token to leave behind: only the error, if there is one. */
  #ended(): undefined {
    const { failure } = this.#changes;
    this.close();
    if (failure !== undefined) throw failure;
    return undefined;
  }

  async #endSnapshot(): Promise<void> {
    this.#timer?.cancel();
    await this.#snapshot?.end();
  }

  close(): void {
    void this.#endSnapshot();
    this.#queue = [];
    this.#takenBytes = 0;
    this.#changes.stateBytes = 0;
    this.#changes.close();
  }
}
