import { setTimeout as pause } from 'node:timers/promises';
import { Code, ConnectError } from '@connectrpc/connect';
import { ErrorInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { connectCalls, type CallConnection } from '../support/chaos_calls.js';
import { FaultProxy, type ProxyMode } from '../support/chaos_proxy.js';
import type { ChaosServer } from '../support/chaos_servers.js';
import type { Prng } from '../support/log_prng.js';
import { OK, UNKNOWN, type Answer, type Books, type Send } from './books.js';

export type Rpc =
  | 'CreateRun'
  | 'BatchCreateRuns'
  | 'ClaimNext'
  | 'UpdateStatus'
  | 'BatchUpdateStatus'
  | 'ExtendLeases'
  | 'CancelRun'
  | 'RetryRun'
  | 'ListRuns'
  | 'PutPipeline'
  | 'PausePipeline'
  | 'ResumePipeline';

/** Those whose answers are kept back now and then; the others change nothing or are repeated anyhow. */
export const SWALLOWED_RPCS: readonly Rpc[] = [
  'CreateRun',
  'BatchCreateRuns',
  'ClaimNext',
  'UpdateStatus',
  'BatchUpdateStatus',
  'ExtendLeases',
  'CancelRun',
  'RetryRun',
  'PutPipeline',
];

/** Those that are sent so seldom that their answers are kept back more often. */
const SELDOM: readonly Rpc[] = ['BatchUpdateStatus', 'ExtendLeases'];
const SELDOM_FACTOR = 4;

/** Reasons after which a client sends the same again. */
const TRY_AGAIN = ['OVERLOADED', 'DATABASE_UNAVAILABLE', 'SERVER_STOPPING', 'CANCELED', 'DEADLINE_EXCEEDED'];

const ANSWER_MS = 1500;
/** Long enough for an idle server to have done what it was asked. */
const SWALLOW_MS = 350;

export interface AskOptions {
  /** How long the server may wait by itself before it answers. */
  readonly waitMs?: number;
  /** How often at most; 1 for a call that must not be repeated. */
  readonly times?: number;
}

type Ask<T> = (calls: CallConnection, options: { readonly timeoutMs: number }) => Promise<T>;

/** The clock that the database has too, finer than a millisecond. */
export const nowMs = (): number => performance.timeOrigin + performance.now();

/** One client: its own way to each server, which can lose what it carries, and its habit of asking again. */
export class Caller {
  readonly #servers: readonly ChaosServer[];
  readonly #proxies: readonly FaultProxy[];
  readonly #books: Books;
  readonly #random: Prng;
  readonly #signal: AbortSignal;
  #at: number;
  #connection: CallConnection | undefined;
  /** How often an answer is kept back; 0 while nothing is to be broken. */
  swallowShare = 0.06;

  private constructor(
    servers: readonly ChaosServer[],
    proxies: readonly FaultProxy[],
    books: Books,
    random: Prng,
    signal: AbortSignal,
  ) {
    this.#servers = servers;
    this.#proxies = proxies;
    this.#books = books;
    this.#random = random;
    this.#signal = signal;
    this.#at = random.between(0, servers.length - 1);
  }

  /** @param signal ends the patience of a client whose call is not answered */
  static async start(
    servers: readonly ChaosServer[],
    books: Books,
    random: Prng,
    signal: AbortSignal,
  ): Promise<Caller> {
    const proxies = await Promise.all(
      servers.map((server) => FaultProxy.start({ host: '127.0.0.1', port: server.grpc.port })),
    );
    return new Caller(servers, proxies, books, random, signal);
  }

  set mode(mode: ProxyMode) {
    for (const proxy of this.#proxies) proxy.mode = mode;
  }

  get lostBytes(): number {
    return this.#proxies.reduce((sum, proxy) => sum + proxy.lostBytes, 0);
  }

  /** Breaks the connection in the middle of whatever it carries. */
  reset(): void {
    for (const proxy of this.#proxies) proxy.reset();
  }

  async close(): Promise<void> {
    this.#forget();
    await Promise.all(this.#proxies.map((proxy) => proxy.close()));
  }

  /**
   * Sends a call until it is answered for good, on any server, and writes each time down.
   *
   * @returns the response, or undefined with an error or without an answer; `sends` says which
   */
  async ask<T>(rpc: Rpc, sends: Send[], ask: Ask<T>, options: AskOptions = {}): Promise<T | undefined> {
    const { waitMs = 0, times = Number.POSITIVE_INFINITY } = options;
    for (let time = 1; time <= times && !this.#signal.aborted; time += 1) {
      this.#books.count(time === 1 ? this.#books.calls : this.#books.repeats, rpc);
      const { response, answer } = await this.#send(rpc, sends, ask, waitMs);
      if (answer !== UNKNOWN) return response;
      await pause(this.#random.between(5, 150));
    }
    return undefined;
  }

  async #send<T>(
    rpc: Rpc,
    sends: Send[],
    ask: Ask<T>,
    waitMs: number,
  ): Promise<{ readonly response: T | undefined; readonly answer: Answer }> {
    const connection = (this.#connection ??= this.#connect());
    const proxy = this.#proxies[this.#at];
    const mayBreak = SWALLOWED_RPCS.includes(rpc) && proxy?.mode === 'pass';
    const share = this.swallowShare * (SELDOM.includes(rpc) ? SELDOM_FACTOR : 1);
    const swallowed = mayBreak && this.#random.chance(share);
    if (swallowed) proxy.mode = 'drop-to-client';
    const at = nowMs();
    let response: T | undefined;
    let answer: Answer = UNKNOWN;
    try {
      response = await ask(connection, { timeoutMs: waitMs + (swallowed ? SWALLOW_MS : ANSWER_MS) });
      answer = OK;
    } catch (error) {
      answer = this.#answerOf(rpc, error);
    }
    sends.push({ at, endedAt: nowMs(), answer, swallowed });
    if (swallowed) {
      this.#books.count(this.#books.swallowed, rpc);
      // A worker that was cut off meanwhile stays so.
      if (proxy?.mode === 'drop-to-client') proxy.mode = 'pass';
    }
    // After silence, and now and then, another server is asked; what a lost connection still carries is lost.
    if (answer === UNKNOWN || this.#random.chance(0.02)) {
      this.#forget();
      if (this.#random.chance(0.7)) this.#at = (this.#at + 1) % this.#servers.length;
    }
    return { response, answer };
  }

  #answerOf(rpc: Rpc, error: unknown): Answer {
    const failure = ConnectError.from(error);
    const reason = failure.findDetails(ErrorInfoSchema)[0]?.reason;
    if (reason === 'INTERNAL') this.#books.internal.push(`${rpc}: ${failure.message}`);
    if (reason === undefined || reason === 'INTERNAL' || TRY_AGAIN.includes(reason)) {
      if (reason === undefined && failure.code === Code.InvalidArgument) throw failure;
      return UNKNOWN;
    }
    return reason;
  }

  #connect(): CallConnection {
    return connectCalls({ grpcAddress: `127.0.0.1:${this.#proxies[this.#at]?.port}` });
  }

  #forget(): void {
    this.#connection?.close();
    this.#connection = undefined;
  }
}
