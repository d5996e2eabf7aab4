const offsetMs = calibrate();

/** The wall clock, as PostgreSQL and the other processes of this machine read it, finer than `Date.now`. */
export function wallClockMs(): number {
  return performance.now() + offsetMs;
}

/** The starts of some milliseconds of `Date.now`, by the monotonic clock. Whatever gets between makes one look late. */
function calibrate(): number {
  const offsets = Array.from({ length: 10 }, () => {
    const before = Date.now();
    let now = before;
    while (now === before) now = Date.now();
    return now - performance.now();
  });
  return Math.max(...offsets);
}
