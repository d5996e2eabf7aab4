import { BatonError } from '../base/errors.js';
import { systemClock, type Clock } from '../base/clock.js';
import { malformedRequest } from './errors.js';
import { RPC_LIMITS } from './limits.js';

/** The part of the budget that one request has. */
export interface Held {
  /** Told when the request has to go, and with what for its caller. Whoever is told gives back what it holds. */
  onDrop: (error: BatonError) => void;
  /**
   * One more piece of the request has come.
   *
   * @returns whether it is the first that takes a part of the budget
   * @throws BatonError OVERLOADED when there is no room for it, INVALID_ARGUMENT when it is one of too many small ones
   */
  add(bytes: number): boolean;
  /** It came in too many pieces: its connection is a flood, and should end. */
  readonly isFlood: boolean;
  /** Nothing more comes: from now on it waits for its turn, and is not slow. */
  whole(): void;
  /** Gives all of it back. */
  release(): void;
}

/** What a piece takes beside its bytes: a client may send each byte by itself. */
const PIECE_BYTES = 256;
/** Over this time is looked how fast a request comes. */
const WINDOW_MS = 2000;

/**
 * Bytes of requests that are being received or wait for their turn. Small requests need none of it, so that nobody who
 * fills it keeps them out. Once it is full, what comes slowly makes room: a few requests that never end would otherwise
 * keep all other large ones out for as long as their connections last.
 */
export class Budget {
  readonly #arrivals = new Set<Arrival>();
  #heldBytes = 0;

  constructor(
    private readonly size: number = RPC_LIMITS.heldRequestBytes,
    readonly clock: Clock = systemClock,
  ) {}

  get heldBytes(): number {
    return this.#heldBytes;
  }

  hold(): Held {
    return new Arrival(this);
  }

  /** For `Arrival` alone. */
  take(arrival: Arrival, bytes: number): void {
    while (this.#heldBytes + bytes > this.size) {
      const slowest = this.#slowest(arrival);
      if (slowest === undefined) throw overloaded();
      slowest.onDrop(overloaded());
      slowest.release();
    }
    this.#heldBytes += bytes;
    this.#arrivals.add(arrival);
  }

  /** For `Arrival` alone. */
  giveBack(arrival: Arrival, bytes: number): void {
    this.#heldBytes -= bytes;
    this.#arrivals.delete(arrival);
  }

  /** Of those that come too slowly, the one that does so most. */
  #slowest(beside: Arrival): Arrival | undefined {
    const nowMs = this.clock.now();
    let slowest: Arrival | undefined;
    let least: number = RPC_LIMITS.requestBytesPerSecond;
    for (const arrival of this.#arrivals) {
      const rate = arrival === beside ? Infinity : arrival.rate(nowMs);
      if (rate >= least) continue;
      slowest = arrival;
      least = rate;
    }
    return slowest;
  }
}

/** One request that is being received, and then waits. */
class Arrival implements Held {
  onDrop: (error: BatonError) => void = () => {};
  #pieces = 0;
  /** What it takes, and how much of that it has from the budget. */
  #cost = 0;
  #held = 0;
  #isWhole = false;
  #window: Window | undefined;
  #windowBefore: Window | undefined;

  constructor(private readonly budget: Budget) {}

  get isFlood(): boolean {
    if (this.#pieces > RPC_LIMITS.requestPieces) return true;
    const mean = this.#cost / this.#pieces - PIECE_BYTES;
    return this.#pieces > RPC_LIMITS.requestCrumbs && mean < RPC_LIMITS.crumbBytes;
  }

  add(bytes: number): boolean {
    this.#pieces += 1;
    this.#cost += bytes + PIECE_BYTES;
    if (this.isFlood) throw malformedRequest('the request comes in too many small pieces');
    if (this.#cost <= RPC_LIMITS.lightRequestBytes) return false;
    const isFirst = this.#held === 0;
    const more = this.#cost - this.#held;
    this.budget.take(this, more);
    this.#held = this.#cost;
    this.#note(this.budget.clock.now(), bytes);
    return isFirst;
  }

  whole(): void {
    this.#isWhole = true;
  }

  release(): void {
    this.budget.giveBack(this, this.#held);
    this.#held = 0;
  }

  /** How fast it comes, in bytes a second; Infinity for what is all there or has only begun. */
  rate(nowMs: number): number {
    const [window, before] = [this.#window, this.#windowBefore];
    if (this.#isWhole || window === undefined) return Infinity;
    const ms = nowMs - window.fromMs;
    // Each byte that comes after a window begins the next one.
    if (ms >= 2 * WINDOW_MS) return 0;
    if (ms >= WINDOW_MS) return (1000 * window.bytes) / ms;
    if (before === undefined) return Infinity;
    return (1000 * (window.bytes + before.bytes)) / (nowMs - before.fromMs);
  }

  #note(nowMs: number, bytes: number): void {
    if (this.#window === undefined || nowMs - this.#window.fromMs >= WINDOW_MS) {
      this.#windowBefore = this.#window;
      this.#window = { fromMs: nowMs, bytes: 0 };
    }
    this.#window.bytes += bytes;
  }
}

/** What has come since then. */
interface Window {
  readonly fromMs: number;
  bytes: number;
}

/** Ends a connection that is a flood, once its answer has had the time to get out. */
export function endSoon(connection: { destroy(): void } | undefined): void {
  setTimeout(() => connection?.destroy(), RPC_LIMITS.floodAnswerMs).unref();
}

function overloaded(): BatonError {
  return new BatonError('OVERLOADED', 'the server has too many bytes of requests at the moment');
}
