import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { Room } from '../../src/base/room.js';
import { AbortableSignal } from '../../src/rpc/call_signal.js';
import { getRun } from '../../src/service/get_run.js';
import type { Queryable, Statement } from '../../src/store/pool.js';
import { describeOnEveryPostgres } from '../support/database.js';
import { create, fresh } from '../support/log_runs.js';
import { waitFor } from '../support/wait.js';

/** Keeps a statement back until it is let through, and counts those that are on their way. */
class SlowDatabase implements Queryable {
  readonly commits = true;
  underWay = 0;
  most = 0;
  #letThrough: (() => void)[] = [];

  constructor(
    private readonly db: Queryable,
    private readonly slow: string,
  ) {}

  async query<Row extends Record<string, unknown>>(
    statement: string | Statement,
    values?: unknown[],
  ): Promise<Row[]> {
    const name = typeof statement === 'string' ? statement : statement.name;
    if (name === this.slow) {
      this.underWay += 1;
      this.most = Math.max(this.most, this.underWay);
      await new Promise<void>((resolve) => this.#letThrough.push(resolve));
      this.underWay -= 1;
    }
    return this.db.query<Row>(statement, values);
  }

  letThrough(): void {
    this.#letThrough.splice(0).forEach((resolve) => resolve());
  }
}

describeOnEveryPostgres('GetRun', (open) => {
  void test(
    'reads large runs a few at a time, and small ones at once',
    fresh(open, async (db) => {
      const inputs = [
        { text: 'x'.repeat(1_000_000), list: ['a'] },
        // Random, so that it is not compressed.
        { text: randomBytes(100_000).toString('base64') },
        { text: 'x'.repeat(10_000) },
      ];
      const made = await create(db.pool, ...inputs.map((input) => ({ input })));
      const inputOf = new Map(made.map(({ id }, index) => [id, inputs[index]]));
      const [packed, long, small] = made;
      assert.ok(packed && long && small);
      const slow = new SlowDatabase(db.pool, 'get_run');
      const room = new Room(2);
      const call = { signal: new AbortableSignal() };
      const asked = [packed, long, packed, long, packed, long];
      const answers = Promise.all(asked.map(({ id }) => getRun(slow, id, room, call)));
      await waitFor(() => slow.underWay === 2, 'two to be on their way');
      const light = await getRun(slow, small.id, room, call);
      assert.equal(light.input?.['text'], inputOf.get(small.id)?.text);
      assert.equal(slow.underWay, 2);
      const letThrough = setInterval(() => slow.letThrough(), 5);
      const runs = await answers.finally(() => clearInterval(letThrough));
      assert.equal(slow.most, 2);
      for (const { id, input, payloadOmitted } of runs) {
        // Compared so that a failure prints no megabyte.
        assert.ok(isDeepStrictEqual(input, inputOf.get(id)));
        assert.equal(payloadOmitted, false);
      }
    }),
  );

  void test(
    'lets others go on when a large run takes long to be read',
    fresh(open, async (db) => {
      const large = { text: randomBytes(100_000).toString('base64') };
      const [run] = await create(db.pool, { input: large });
      assert.ok(run);
      const slow = new SlowDatabase(db.pool, 'get_run');
      const [room, call] = [new Room(1, 20), { signal: new AbortableSignal() }];
      const answers = Promise.all([1, 2].map(() => getRun(slow, run.id, room, call)));
      await waitFor(() => slow.underWay === 2, 'both to be on their way');
      slow.letThrough();
      slow.letThrough();
      await answers;
    }),
  );
});
