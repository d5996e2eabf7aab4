import { setTimeout as delay } from 'node:timers/promises';

/**
 * Waits until a condition holds. There is no sleep in the tests but this one, between two looks.
 *
 * @throws Error that names what was waited for, after `timeoutMs`
 */
export async function waitFor(
  condition: () => boolean | Promise<boolean>,
  what: string,
  timeoutMs = 10_000,
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`);
    await delay(10);
  }
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

/** Fails loudly instead of hanging: the promise, or an error that names it after `timeoutMs`. */
export async function within<T>(promise: Promise<T>, what: string, timeoutMs = 10_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${timeoutMs} ms for ${what}`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
