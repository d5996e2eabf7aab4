type Step = () => Promise<void>;

const steps = new Set<Step>();

/**
 * Has something ended also when the benchmark fails or is interrupted.
 *
 * @returns ends it now, and only once
 */
export function cleanUpLater(end: Step): Step {
  let ended: Promise<void> | undefined;
  const step: Step = () => (ended ??= end().finally(() => steps.delete(step)));
  steps.add(step);
  return step;
}

/** Ends what is still there. */
export async function cleanUpNow(): Promise<void> {
  await Promise.all([...steps].map((step) => step()));
}
