import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';

/**
 * How many times longer than promised a thing may take. `npm test` sets it to 10, because its machine does other work at
 * the same time: what is late by less is printed and fails nothing. Benchmarks and long runs, which do not set it, judge
 * the promise itself.
 */
const SLACK = Number(process.env['BATON_TEST_SLACK'] ?? 1);
/** Nothing is waited for longer than this, unless its promise is longer. */
const LONGEST_MS = 60_000;

/** What is judged instead of a promise where a machine may do other work. */
export const withSlack = (promisedMs: number): number => SLACK * promisedMs;

const patienceOf = (promisedMs: number): number =>
  Math.max(promisedMs, Math.min(withSlack(promisedMs), LONGEST_MS));

function sayLate(what: string, startedAt: number, promisedMs: number): void {
  const tookMs = performance.now() - startedAt;
  if (tookMs > promisedMs) console.log(`late: ${what} took ${Math.round(tookMs)} ms of ${promisedMs} ms`);
}

/**
 * Waits until a condition holds. There is no sleep in the tests but this one, between two looks.
 *
 * @param promisedMs how long it takes at most on a machine that does nothing else
 * @param mostMs never wait longer, because something else than what is tested would help then
 * @throws Error that names what was waited for, after `promisedMs` times the slack
 */
export async function waitFor(
  condition: () => boolean | Promise<boolean>,
  what: string,
  promisedMs = 10_000,
  mostMs = Infinity,
): Promise<void> {
  const startedAt = performance.now();
  const patienceMs = Math.min(patienceOf(promisedMs), mostMs);
  while (!(await condition())) {
    if (performance.now() > startedAt + patienceMs) throw new Error(`waited ${patienceMs} ms for ${what}`);
    await delay(10);
  }
  sayLate(what, startedAt, promisedMs);
}

/** A promise with its ends outside: tests wait for a signal with it. */
export class Signal<T = void> {
  readonly promise: Promise<T>;
  #resolve!: (value: T) => void;

  constructor() {
    this.promise = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  send(value: T): void {
    this.#resolve(value);
  }
}

/** Fails loudly instead of hanging: the promise, or an error that names it. Its limits are those of `waitFor`. */
export async function within<T>(
  promise: Promise<T>,
  what: string,
  promisedMs = 10_000,
  mostMs = Infinity,
): Promise<T> {
  const startedAt = performance.now();
  const patienceMs = Math.min(patienceOf(promisedMs), mostMs);
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${patienceMs} ms for ${what}`)), patienceMs);
  });
  try {
    const value = await Promise.race([promise, timeout]);
    sayLate(what, startedAt, promisedMs);
    return value;
  } finally {
    clearTimeout(timer);
  }
}

/** A time that was measured against what is promised: printed, and judged with the slack. */
export function assertTook(what: string, tookMs: number, promisedMs: number): void {
  const text = `${what} took ${Math.round(tookMs)} ms of ${promisedMs} ms`;
  console.log(text);
  assert.ok(tookMs <= withSlack(promisedMs), text);
}
