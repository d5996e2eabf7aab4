/** Numbers that plain SQL stores and no double holds: what workers and watchers get of them, and that they hurt nobody. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeOnEveryPostgres } from '../support/database.js';
import { startTestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';
import { Watching } from '../support/watching.js';

/** What is stored, and what is read of it. */
const NUMBERS = [
  ['9007199254740991', 9007199254740991],
  ['9007199254740993', 9007199254740992],
  ['-1152921504606846977', -1152921504606846976],
  ['"9007199254740993"', '9007199254740993'],
  ['1e300', 1e300],
  ['1e400', Number.MAX_VALUE],
  ['-1e400', -Number.MAX_VALUE],
  ['1e-400', 0],
] as const;

describeOnEveryPostgres('numbers of plain SQL', (open) => {
  void test('one that no double holds fails no list, no claim and no stream that it is in', async (t) => {
    const database = await open();
    const baton = await startTestServer(database.url);
    const watch = new Watching(baton.jobs, { includePayload: true });
    t.after(async () => {
      await watch.cancel();
      await baton.stop();
      await database.drop();
    });
    await waitFor(() => watch.messages.length > 0, 'the stream to open');
    // Each in an object of its own and inside of others.
    for (const [stored] of NUMBERS) {
      const input = `{"n": ${stored}, "deep": [{"n": ${stored}}]}`;
      await database.pool.query('insert into baton.runs (pipeline, input) values ($1, $2)', ['ci', input]);
    }
    const expected = NUMBERS.map(([, n]) => ({ n, deep: [{ n }] }));

    for (const jobs of [baton.jobs, baton.httpJobs]) {
      const { runs } = await jobs.listRuns({ includePayload: true });
      assert.deepEqual(runs.map((run) => run.input).sort(byText), expected.toSorted(byText));
    }
    await waitFor(() => watch.events.length === NUMBERS.length, 'all events');
    assert.deepEqual(
      watch.events.map((event) => event.run?.input),
      expected,
    );
    const lines = await eventLines(
      `${baton.httpUrl}/v1/events?after=oldest&include_payload=true`,
      NUMBERS.length,
    );
    assert.deepEqual(lines, expected);
    const { claims } = await baton.httpJobs.claimNext({ stage: 'initialize', maxRuns: 100 });
    assert.deepEqual(claims.map((claim) => claim.run?.input).sort(byText), expected.toSorted(byText));
  });
});

const byText = (a: unknown, b: unknown): number => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1);

/** The inputs of the first events of a stream. */
async function eventLines(url: string, count: number): Promise<unknown[]> {
  const response = await fetch(url, { signal: AbortSignal.timeout(10_000) });
  let text = '';
  const inputs: unknown[] = [];
  assert.ok(response.body !== null);
  for await (const chunk of response.body) {
    text += Buffer.from(chunk).toString();
    const lines = text.split('\n');
    text = lines.pop() ?? '';
    for (const line of lines) {
      const { kind, event } = JSON.parse(line) as { kind: string; event?: { run: { input: unknown } } };
      assert.notEqual(kind, 'ERROR', line);
      if (kind === 'EVENT') inputs.push(event?.run.input);
    }
    if (inputs.length >= count) break;
  }
  return inputs;
}
