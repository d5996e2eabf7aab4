import assert from 'node:assert/strict';
import type { RunEvent } from '../../src/run/run.js';
import type { Change } from './log_oracle.js';

export const changeOf = ({ run }: RunEvent): Change => ({
  runId: run.id,
  version: run.version,
  status: run.status,
});

const text = (item: unknown): string =>
  JSON.stringify(item, (_, value: unknown) => (typeof value === 'bigint' ? `${value}` : value)) ?? 'nothing';

/** Two sequences are the same. Names the first difference only, since the sequences may be long. */
export function assertSameSequence<T>(actual: readonly T[], expected: readonly T[], what: string): void {
  const length = Math.max(actual.length, expected.length);
  for (let index = 0; index < length; index += 1) {
    const [is, should] = [text(actual[index]), text(expected[index])];
    if (is !== should)
      assert.fail(
        `${what}: item ${index} of ${actual.length} (expected ${expected.length}) is ${is}, expected ${should}`,
      );
  }
}

/** Guarantees 2 and 4 to watchers, and that each event starts where the one before it ended. */
export function assertWellFormed(events: readonly RunEvent[]): void {
  let last = -1n;
  const runs = new Map<string, RunEvent>();
  for (const event of events) {
    const { run, revision } = event;
    const at = `revision ${revision} of run ${run.id}`;
    assert.ok(revision > last, `${at} comes after revision ${last}`);
    last = revision;
    const before = runs.get(run.id);
    assert.equal(run.version, (before?.run.version ?? 0n) + 1n, `version at ${at}`);
    assert.deepEqual(
      [event.previousStatus, event.previousStage, event.previousState],
      before === undefined ? ['', '', undefined] : [before.run.status, before.run.stage, before.run.state],
      `where ${at} came from`,
    );
    assert.equal(event.type === 'CREATED', before === undefined, `type at ${at}`);
    runs.set(run.id, event);
  }
}
