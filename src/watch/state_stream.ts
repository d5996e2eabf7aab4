import type { Timer } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Run, RunEvent } from '../run/run.js';
import type { Pool, Snapshot } from '../store/pool.js';
import { readHead } from '../store/sql/read_head.js';
import { readState } from '../store/sql/read_state.js';
import type { Hub } from './hub.js';
import { splitEvents, type WatchMessage } from './message.js';
import { encodeResumeToken } from './resume_token.js';
import type { Subscription } from './subscription.js';

/** How long one stream may read a snapshot: it has a connection, and holds back vacuum while it lasts. */
const SNAPSHOT_MS = 60_000;

/**
 * A stream that starts with the state: OPENED, the matching runs as STATE, STATE_END{S}, then the changes after S.
 *
 *     opened ──▶ reading the snapshot ──▶ changes        from any: ──▶ ended
 *
 * The runs and S are read in one snapshot, so the changes continue it without gap or overlap. Until STATE_END there is
 * nothing to resume from, so the messages before it carry no token.
 */
export class StateStream {
  readonly #pool: Pool;
  readonly #hub: Hub;
  readonly #changes: Subscription;
  #phase: 'opened' | 'reading' | 'changes' = 'opened';
  #snapshot: Snapshot | undefined;
  #timer: Timer | undefined;
  #timedOut = false;
  #epoch = '';
  #revision = 0n;
  #after: string | undefined;
  /** Messages of the page that was read last. */
  #queue: WatchMessage[] = [];

  /** @param changes a subscription that nobody has pulled yet; it is moved to S */
  constructor(pool: Pool, hub: Hub, changes: Subscription) {
    this.#pool = pool;
    this.#hub = hub;
    this.#changes = changes;
  }

  async next(): Promise<WatchMessage | undefined> {
    if (this.#phase === 'changes') return this.#changes.next();
    if (this.#phase === 'opened') {
      this.#phase = 'reading';
      const opened = await this.#changes.next();
      return opened === undefined ? undefined : { ...opened, resumeToken: '' };
    }
    this.#changes.touch();
    try {
      return this.#queue.shift() ?? (await this.#readPage());
    } catch (error) {
      this.close();
      throw error;
    }
  }

  async #readPage(): Promise<WatchMessage | undefined> {
    if (this.#isOver()) return this.#ended();
    const snapshot = (this.#snapshot ??= await this.#begin());
    const { filter, payload } = this.#changes.view;
    const runs = await readState(snapshot, {
      filter,
      after: this.#after,
      limit: LIMITS.pageEvents,
      payloadBytes: payload ? LIMITS.pageBytes : undefined,
    });
    if (this.#timedOut) {
      throw new BatonError('SLOW_CONSUMER', `the state was not taken within ${SNAPSHOT_MS / 1000} s`, {
        retryDelayMs: 1000,
      });
    }
    if (this.#isOver()) return this.#ended();
    this.#after = runs.at(-1)?.id;
    if (runs.length > 0) {
      const chunks = splitEvents(
        runs.map((run) => this.#entry(run)),
        payload,
      );
      this.#queue = chunks.map(({ events }) => this.#message('STATE', events, ''));
      return this.#queue.shift();
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

  async #begin(): Promise<Snapshot> {
    const snapshot = await this.#pool.snapshot();
    const head = await readHead(snapshot).catch(async (error: unknown) => {
      await snapshot.end();
      throw error;
    });
    this.#epoch = head.epoch;
    this.#revision = head.revision;
    // The reader may be gone, or stand still for ever: the connection must not wait for it.
    if (this.#isOver()) await snapshot.end();
    this.#timer = this.#hub.clock.after(SNAPSHOT_MS, () => {
      this.#timedOut = true;
      void snapshot.end();
    });
    return snapshot;
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
    this.#changes.close();
  }
}
