import { backoffMs } from '../base/backoff.js';
import { Bell } from '../base/bell.js';
import type { Clock } from '../base/clock.js';
import { BatonError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { changeKey, type RunEvent } from '../run/run.js';
import type { Queryable } from '../store/pool.js';
import { readEvents } from '../store/sql/read_events.js';
import { readHead } from '../store/sql/read_head.js';
import { readNewWork, type NewWork, type WorkFound } from '../store/sql/read_new_work.js';
import type { Hub } from './hub.js';
import { fitEvent, slicePage, type LogPage } from './message.js';
import type { LogIdentity } from './identity.js';
import type { OwnWork } from './own_work.js';
import { assertKept, assertNotLost, assertSameLog } from './resume_token.js';

const RETRY = { initialMs: 50, maxMs: 1000 };
/** Why no live stream can go on. */
const LOST_REASONS: ReadonlySet<string> = new Set(['RESUME_TOKEN_TOO_OLD', 'RESUME_TOKEN_FUTURE']);
/** How often the tail makes sure that the log it follows is still the same one. */
const IDENTITY_INTERVAL_MS = 5000;

/** What one look at the log has found: nothing, something with perhaps more behind it, or all there was. */
const NOTHING = 'nothing';
const MORE = 'more';
const LAST = 'last';
type Step = typeof NOTHING | typeof MORE | typeof LAST;

export interface TailOptions {
  readonly db: Queryable;
  readonly hub: Hub;
  readonly identity: Pick<LogIdentity, 'check'>;
  readonly clock: Clock;
  readonly log: Logger;
  /** Whether anybody waits for a claim and has to be told about new work. */
  readonly wantsWork: () => boolean;
  /** Told what began to wait; undefined where it cannot be known, so everybody should look. */
  readonly onWork: (work: readonly NewWork[] | undefined) => void;
  /** Of these whoever waits has been told already. */
  readonly ownWork: OwnWork;
}

/**
 * Reads one page of the log after a revision. Live tail, catch-up after a reconnect and polling all use this.
 *
 * @param epoch of the log that the revision is of; undefined to take it as it is
 * @throws BatonError RESUME_TOKEN_TOO_OLD when what follows the revision is no longer kept, RESUME_TOKEN_FOREIGN when
 *   this is another log, RESUME_TOKEN_FUTURE when the revision was lost: nothing is skipped silently
 */
export async function readLogPage(
  db: Queryable,
  after: bigint,
  payload: boolean,
  epoch?: string,
): Promise<LogPage> {
  const page = await readEvents(db, {
    after,
    limit: LIMITS.pageEvents,
    payloadBytes: payload ? LIMITS.pageBytes : undefined,
  });
  const events = payload ? page.events.map(fitEvent) : page.events;
  if (epoch !== undefined) assertSameLog(epoch, page.epoch);
  assertNotLost(after, page.isLost);
  assertKept(after, page.oldestRevision);
  return { epoch: page.epoch, after, through: events.at(-1)?.revision ?? after, events, payload };
}

/**
 * The one reader of the log behind all live streams and waiting claims of this server.
 *
 *   1. Wait for the bell (a notification, a LISTEN that was made again, a new demand), at most a second.
 *   2. Nobody needs the log: stand nowhere and read nothing.
 *   3. Only claims wait: count what began to wait in which stage, and move on to the head.
 *   4. Streams are live: read pages after the position and publish each, until one comes back empty.
 *
 * The position only moves on in the same turn of the event loop in which the demand was looked at, because a stream
 * may join during any query.
 */
export class LogTail {
  readonly #options: TailOptions;
  readonly #bell: Bell;
  #stopped = false;
  #running: Promise<void> | undefined;
  #epoch: string | undefined;
  #identityCheckedAt = Number.NEGATIVE_INFINITY;
  #failures = 0;
  #passedOver = false;
  /** Polls that found something although no bell had rung: notifications are broken when it grows. */
  silentFinds = 0;

  constructor(options: TailOptions) {
    this.#options = options;
    this.#bell = new Bell(options.clock);
  }

  /** Something may have been committed, or somebody new needs the log. Only takes note. */
  ring(): void {
    this.#bell.ring();
  }

  /** Something was committed of which nobody needs to hear before the next regular look. */
  passOver(): void {
    this.#passedOver = true;
  }

  /** The connection was made anew: the database behind it may be another one. */
  checkIdentity(): void {
    this.#identityCheckedAt = Number.NEGATIVE_INFINITY;
    this.#bell.ring();
  }

  start(): void {
    this.#running = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#bell.ring();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const waitMs = this.#failures > 0 ? backoffMs(RETRY, this.#failures) : LIMITS.pollIntervalMs;
      const rung = await this.#bell.wait(waitMs);
      if (this.#stopped) return;
      const passedOver = this.#passedOver;
      this.#passedOver = false;
      try {
        const found = await this.#advance();
        if (found && !rung && !passedOver && this.#failures === 0) this.silentFinds += 1;
        this.#failures = 0;
      } catch (error) {
        if (error instanceof BatonError && LOST_REASONS.has(error.reason)) {
          // This server was away for longer than the history is kept, or a failover has lost what it had delivered.
          // Streams that were opened since then, or read the log by themselves, may stand elsewhere.
          this.#options.hub.disperse();
        }
        this.#failures += 1;
        this.#identityCheckedAt = Number.NEGATIVE_INFINITY;
        this.#options.log.warn(
          { err: error, failures: this.#failures },
          'the log could not be read; trying again',
        );
      }
    }
  }

  /** @returns whether there was anything new */
  async #advance(): Promise<boolean> {
    const { hub, wantsWork } = this.#options;
    let found = false;
    while (!this.#stopped) {
      // Also while nobody is live: streams that catch up, and tokens, depend on it.
      await this.#verifyIdentity();
      if (hub.demand === 'none' && !wantsWork()) {
        hub.setPosition(undefined);
        return found;
      }
      const position = hub.position;
      const step =
        position === undefined
          ? await this.#takePosition()
          : hub.demand === 'none'
            ? await this.#countWork(position)
            : await this.#publishPage(position, hub.demand === 'payload');
      found ||= step !== NOTHING;
      if (step !== MORE) return found;
    }
    return found;
  }

  /** Starts at the head. Claims that began to wait before this moment look once, since their work may be before it. */
  async #takePosition(): Promise<Step> {
    const { db, ownWork } = this.#options;
    const { told } = ownWork;
    const head = await readHead(db);
    ownWork.forget(told);
    if (this.#options.hub.position === undefined) this.#options.hub.setPosition(head.revision, head.epoch);
    this.#options.onWork(undefined);
    return MORE;
  }

  async #countWork(position: bigint): Promise<Step> {
    const { db, hub, onWork, ownWork } = this.#options;
    const { told } = ownWork;
    const { through, work } = await readNewWork(db, position);
    if (through > position) {
      // A stream that became live during the query needs these events themselves.
      if (hub.demand !== 'none') return MORE;
      hub.setPosition(through);
      onWork(work.map((found) => this.#withoutOwn(found)));
    }
    ownWork.forget(told);
    // That was all up to the head; what has been committed since then rings again.
    return through > position ? LAST : NOTHING;
  }

  #withoutOwn({ pipeline, stage, runs, freed, changes }: WorkFound): NewWork {
    const own = changes.filter((key) => this.#options.ownWork.has(key)).length;
    return { pipeline, stage, runs: runs - own, freed };
  }

  async #publishPage(position: bigint, payload: boolean): Promise<Step> {
    const { db, hub, ownWork } = this.#options;
    const { told } = ownWork;
    const page = await readLogPage(db, position, payload, hub.positionEpoch);
    if (page.events.length === 0) {
      ownWork.forget(told);
      return NOTHING;
    }
    // A stream that needs payloads became live during the query: read the page again, with them.
    if (hub.demand === 'payload' && !payload) return MORE;
    for (const slice of slicePage(page)) hub.publish(slice);
    this.#announceWork(page.events);
    return MORE;
  }

  #announceWork(events: readonly RunEvent[]): void {
    const { wantsWork, onWork, ownWork } = this.#options;
    if (!wantsWork()) return;
    const counts = new Map<string, { pipeline: string; stage: string; runs: number; freed: number }>();
    const count = (pipeline: string, stage: string, what: 'runs' | 'freed'): void => {
      const key = `${pipeline}/${stage}`;
      const entry = counts.get(key) ?? { pipeline, stage, runs: 0, freed: 0 };
      entry[what] += 1;
      counts.set(key, entry);
    };
    for (const { run, previousStage, previousState } of events) {
      if (run.state === 'PENDING' && !ownWork.has(changeKey(run))) count(run.pipeline, run.stage, 'runs');
      const left = run.state !== 'ACTIVE' || run.stage !== previousStage;
      if (previousState === 'ACTIVE' && left) count(run.pipeline, previousStage, 'freed');
    }
    if (counts.size > 0) onWork([...counts.values()]);
  }

  /**
   * Makes sure, now and then and after every fault, that this is the log the position belongs to. A restored database
   * or a failover that lost commits must not be taken for silence: every stream is told.
   */
  async #verifyIdentity(): Promise<void> {
    const { db, hub, clock, identity, log } = this.#options;
    if (clock.now() - this.#identityCheckedAt < IDENTITY_INTERVAL_MS) return;
    const before = hub.position;
    await identity.check();
    const head = await readHead(db, before);
    const foreign = [this.#epoch, hub.positionEpoch].some(
      (epoch) => epoch !== undefined && epoch !== head.epoch,
    );
    const lost = head.isLost;
    const behind = before !== undefined && head.revision < before;
    this.#identityCheckedAt = clock.now();
    this.#epoch = head.epoch;
    if (!foreign && !lost && !behind) return;
    log.error(
      { head: String(head.revision), position: String(before), foreign },
      'the log is not the one that was followed',
    );
    if (lost && !foreign) return hub.disperse();
    hub.endAll(
      foreign
        ? new BatonError('RESUME_TOKEN_FOREIGN', 'the database now holds another log')
        : new BatonError('RESUME_TOKEN_FUTURE', 'the log has lost changes that were delivered'),
      // Streams that were opened since then are of the new log, and wait for the position to be so, too.
      foreign ? head.epoch : undefined,
    );
    hub.setPosition(undefined);
  }
}
