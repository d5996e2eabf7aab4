/** A timer that was set; `cancel` is harmless after it fired. */
export interface Timer {
  cancel(): void;
}

/** The one source of in-process time, so that tests can turn it. Deadlines of runs are the database's, never this. */
export interface Clock {
  /** Milliseconds of a clock that never goes back. */
  now(): number;
  /** Calls `task` once, after `delayMs`. A pending timer does not keep the process alive. */
  after(delayMs: number, task: () => void): Timer;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  after(delayMs, task) {
    const timer = setTimeout(task, delayMs);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};
