/**
 * The state machine of runs against a model of its own: commands by chance, through two servers, with several workers
 * that keep their old tokens. After each command the answer, and in the end every run and its whole history, are those
 * of the model. No time goes by: leases end and waits are over when the test moves them.
 *
 * `BATON_MODEL_SECONDS=600` goes on for longer. `BATON_TEST_SEED` repeats a failure, and `BATON_MODEL_PATH` and
 * `BATON_MODEL_REPLAY` with what it printed its shortest form alone.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeOnEveryPostgres } from '../support/database.js';
import { commands } from '../worker_model/commands.js';
import { compareAll, Rig, Sim } from '../worker_model/rig.js';
import { fc, SEED } from '../support/seed.js';

/** So many lists of commands, the same ones each time, or by hand as many as there is time for. */
const LISTS = 8;
const SECONDS = Number(process.env['BATON_MODEL_SECONDS'] ?? 0);
const PATH = process.env['BATON_MODEL_PATH'];
const REPLAY = process.env['BATON_MODEL_REPLAY'];
const COMMANDS = 150;

/** What has to have come about at least once; without it the test has proved less than it says. */
const EXPECTED = [
  ...['claimed', 'claimed with an update', 'createAgain', 'claimAgain', 'endLease', 'comeDue', 'pause'],
  ...['update: OK', 'update: LEASE_LOST', 'update: UNCHANGED', 'update: STATUS_NOT_ALLOWED', 'item: OK'],
  ...[
    'extend: OK',
    'extend: LEASE_LOST',
    'cancel: OK',
    'cancel: RUN_TERMINAL',
    'retry: OK',
    'retry: RUN_NOT_TERMINAL',
  ],
];

/** So long it goes on for what has not come about yet, and so long it looks for a shorter failure. */
const EXTRA_SECONDS = 60;

describeOnEveryPostgres('the model of runs', (open) => {
  void test(
    'commands by chance do what the model does',
    { timeout: (SECONDS + 3 * EXTRA_SECONDS) * 1000 },
    async () => {
      const counts = new Map<string, number>();
      const replay = REPLAY === undefined ? {} : { replayPath: REPLAY };
      const property = fc.asyncProperty(
        fc.commands(commands, { maxCommands: COMMANDS, size: 'max', ...replay }),
        async (list) => {
          const rig = await Rig.start(await open(), counts);
          const sim = new Sim();
          try {
            await fc.asyncModelRun(() => ({ model: sim, real: rig }), list);
            await compareAll(sim, rig);
          } finally {
            await rig.stop();
          }
        },
      );
      const startedAt = performance.now();
      const seconds = (): number => (performance.now() - startedAt) / 1000;
      const missing = (): string[] => EXPECTED.filter((what) => !counts.has(what));
      const goesOn = (): boolean =>
        PATH === undefined &&
        (seed < SEED + LISTS || seconds() < SECONDS || (missing().length > 0 && seconds() < EXTRA_SECONDS));
      let seed = SEED;
      do {
        await fc.assert(property, {
          seed,
          numRuns: 1,
          plugins: [fc.interruptAfterTimeLimit(EXTRA_SECONDS * 1000)],
          ...(PATH === undefined ? {} : { path: PATH }),
        });
        seed += 1;
      } while (goesOn());
      console.log(
        `seeds ${SEED} to ${seed - 1}: ${[...counts].map(([what, count]) => `${count} ${what}`).join(', ')}`,
      );
      if (PATH === undefined) assert.deepEqual(missing(), []);
    },
  );
});
