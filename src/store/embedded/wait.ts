import { setTimeout as delay } from 'node:timers/promises';

/** How often a condition that nothing announces (a file, a foreign process) is looked at. */
const POLL_MS = 20;

/**
 * Waits until the condition holds. Returns false when `timeoutMs` passed first, and rejects with the
 * signal's reason when it is aborted.
 */
export async function waitUntil(
  condition: () => boolean | Promise<boolean>,
  timeoutMs: number,
  signal?: AbortSignal,
): Promise<boolean> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    signal?.throwIfAborted();
    if (await condition()) return true;
    if (performance.now() >= deadline) return false;
    await delay(POLL_MS);
  }
}
