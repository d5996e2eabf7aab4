/**
 * The hard parts of the watch, one at a time and without chance: each test here catches at least one of the mutants in
 * test/mutants/watch.ts, which `npm run mutants` shows.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LIMITS } from '../../src/base/limits.js';
import { MATCH_ALL } from '../../src/run/filter.js';
import { dropTrimmed, extendLog, trimLog } from '../../src/store/log_partitions.js';
import { readHead } from '../../src/store/sql/read_head.js';
import { Listener } from '../../src/watch/listener.js';
import { decodeResumeToken } from '../../src/watch/resume_token.js';
import { blockedWatch, untilBlocked } from '../support/chaos_blocked.js';
import { FaultProxy } from '../support/chaos_proxy.js';
import { Reader, Rig } from '../support/chaos_rig.js';
import { describeOnEveryPostgres, silent } from '../support/database.js';
import { startTestServer } from '../support/server.js';
import { waitFor, within } from '../support/wait.js';

const PARTITION = 10n;

function range(from: number, to: number): bigint[] {
  return Array.from({ length: to - from + 1 }, (_, index) => BigInt(from + index));
}

describeOnEveryPostgres('what the watch mutants break', (open) => {
  /** A test with a rig on a database of its own, all of it put away afterwards. */
  const rigged = (body: (rig: Rig) => Promise<void>) => async (): Promise<void> => {
    const database = await open();
    const rig = new Rig(database);
    try {
      await body(rig);
    } finally {
      await rig.stop();
      await database.drop();
    }
  };

  const listen = async (rig: Rig, databaseUrl = rig.db.url): Promise<Listener> => {
    const listener = new Listener({
      databaseUrl,
      clock: rig.clock,
      log: silent,
      onRing: () => rig.tail.ring(),
      onConnect: () => undefined,
    });
    listener.start();
    await waitFor(() => listener.listening, 'the listener to listen');
    return listener;
  };

  void test(
    'a commit that took its revision early is not overtaken',
    rigged(async (rig) => {
      rig.tail.start();
      const reader = await (await rig.open(0n)).live();
      const [early, late] = [await rig.db.connect(), await rig.db.connect()];
      await early.query('begin');
      await early.query(`insert into baton.runs (repository) values ('early')`);
      // Takes its revision now, as it would in the middle of its commit.
      await early.query('set constraints all immediate');
      const pid = (await late.query<{ pid: number }>('select pg_backend_pid() as pid')).rows[0]?.pid;
      let overtook = false;
      const lateDone = late.query(`insert into baton.runs (repository) values ('late')`).then(() => {
        overtook = true;
        rig.tail.ring();
      });
      const waits = async (): Promise<boolean> => {
        const rows = await rig.db.pool.query(
          `select 1 from pg_stat_activity where pid = $1 and wait_event_type = 'Lock'`,
          [pid],
        );
        return rows.length > 0;
      };
      await waitFor(async () => overtook || (await waits()), 'the late commit to overtake or to wait');
      if (overtook) await reader.hasEvents(1);
      await early.query('commit');
      await within(lateDone, 'the late commit');
      rig.tail.ring();
      await reader.hasEvents(2);
      assert.deepEqual(
        reader.messages.flatMap((message) => message.events.map(({ run }) => run.repository)),
        ['early', 'late'],
      );
    }),
  );

  void test(
    'what was committed before LISTEN took effect is read',
    rigged(async (rig) => {
      rig.tail.start();
      const reader = await (await rig.open(0n)).live();
      await rig.insert();
      const listener = await listen(rig);
      try {
        await reader.hasEvents(1);
      } finally {
        await listener.stop();
      }
    }),
  );

  void test(
    'one doorbell is enough for any number of events',
    rigged(async (rig) => {
      rig.tail.start();
      const reader = await (await rig.open(0n)).live();
      const listener = await listen(rig);
      try {
        // One transaction, one notification.
        await rig.insert(LIMITS.pageEvents + 3);
        await reader.hasEvents(LIMITS.pageEvents + 3);
      } finally {
        await listener.stop();
      }
    }),
  );

  void test(
    'a LISTEN connection that went half open is found out and replaced',
    rigged(async (rig) => {
      const { proxy, url } = await FaultProxy.before(rig.db.url);
      rig.tail.start();
      const reader = await (await rig.open(0n)).live();
      rig.clock.speed = 20;
      const listener = await listen(rig, url);
      try {
        proxy.mode = 'half-open';
        await rig.insert();
        await waitFor(() => proxy.lostBytes > 0, 'the notification to be lost');
        proxy.mode = 'pass';
        await reader.hasEvents(1);
      } finally {
        await listener.stop();
        await proxy.close();
      }
    }),
  );

  void test(
    'a bookmark that is due waits for what was just fanned out',
    rigged(async (rig) => {
      const reader = await (await rig.open(0n, { bookmarkMs: 60_000 })).live();
      await rig.insert();
      // The interval ends in the very moment in which the event comes.
      rig.clock.skewMs += 120_000;
      await rig.publish();
      const message = await reader.next();
      assert.equal(message?.kind, 'EVENTS');
      assert.deepEqual(reader.revisions, [1n]);
    }),
  );

  void test(
    'changes that never stop keep no bookmark back, and it stands where they have come to',
    rigged(async (rig) => {
      const bookmarkMs = 60_000;
      const reader = await (await rig.open(0n, { bookmarkMs })).live();
      const marks: bigint[] = [];
      await rig.insert();
      await rig.publish();
      for (let total = 1; total <= 12; total += 1) {
        // Another one is there before this one is taken, so that its queue is never empty.
        await rig.insert();
        await rig.publish();
        while (reader.revisions.length < total) {
          const message = await reader.next();
          if (message?.kind === 'BOOKMARK') marks.push(BigInt(reader.revisions.length));
        }
        rig.clock.skewMs += bookmarkMs / 3;
      }
      assert.ok(marks.length >= 3, `${marks.length} bookmarks in four intervals`);
      assert.deepEqual(
        reader.messages.filter(({ kind }) => kind === 'BOOKMARK').map(({ revision }) => revision),
        marks,
      );
    }),
  );

  void test(
    'a stream that catches up has its bookmarks also while the log does not answer',
    rigged(async (rig) => {
      const bookmarkMs = 500;
      await rig.insert();
      const holder = await rig.db.connect();
      await holder.query('begin; lock table baton.run_events in access exclusive mode');
      // `rig.open` would look at the head of the log, which nobody can now.
      const reader = new Reader(rig.hub.open(MATCH_ALL, false, await epochOf(rig), 0n, bookmarkMs));
      await reader.opened();
      for (let marks = 0; marks < 2; marks += 1) {
        const message = await within(reader.subscription.next(), 'a bookmark', 2 * bookmarkMs);
        assert.deepEqual([message?.kind, message?.revision], ['BOOKMARK', 0n]);
      }
      await holder.query('rollback');
      while (reader.revisions.length === 0) await reader.next();
      assert.deepEqual(reader.revisions, [1n]);
    }),
  );

  void test(
    'every token on the way through a page resumes with exactly what follows',
    rigged(async (rig) => {
      const total = LIMITS.pageEvents;
      await rig.insert(total, 'r'.repeat(256));
      const whole = await (await rig.open(0n, { filter: { pipelines: ['ci'] } })).opened();
      await whole.hasEvents(total);
      assert.deepEqual(whole.revisions, range(1, total));
      const inside = whole.messages.filter(({ revision }) => revision > 0n && revision < BigInt(total));
      assert.ok(inside.length > 0, 'the page has to take several messages');
      for (const message of inside) {
        const { revision } = decodeResumeToken(message.resumeToken);
        const rest = await (await rig.open(revision)).opened();
        const seen = whole.messages.slice(0, whole.messages.indexOf(message) + 1);
        const left = total - seen.reduce((sum, { events }) => sum + events.length, 0);
        await rest.hasEvents(left);
        assert.deepEqual(rest.revisions, range(total - left + 1, total));
        rest.subscription.close();
      }
      whole.subscription.close();
    }),
  );

  void test(
    'a stream gets each event once, whether from the log or from the hub',
    rigged(async (rig) => {
      await rig.insert(3);
      const reader = await (await rig.open(0n)).live();
      await rig.insert(3);
      await rig.publish();
      await reader.hasEvents(6);
      assert.deepEqual(reader.revisions, range(1, 6));
    }),
  );

  void test(
    'a stream that joins ahead of the tail is not given the start of its next page again',
    rigged(async (rig) => {
      const first = await (await rig.open(0n)).live();
      await rig.insert(3);
      // It knows three events that the tail has yet to publish, together with a fourth.
      const ahead = await (await rig.open(3n)).live();
      await rig.insert(1);
      await rig.publish();
      await first.hasEvents(4);
      assert.deepEqual(first.revisions, range(1, 4));
      await ahead.hasEvents(1);
      assert.deepEqual(ahead.revisions, [4n]);
    }),
  );

  void test(
    'a stream from before the remembered pages reads the log instead of jumping to them',
    rigged(async (rig) => {
      const pages = LIMITS.recentPages + 6;
      const live = await (await rig.open(0n)).live();
      for (let page = 1; page <= pages; page += 1) {
        await rig.insert();
        await rig.publish();
      }
      await live.hasEvents(pages);
      const late = await (await rig.open(1n)).live();
      assert.deepEqual(late.revisions, range(2, pages));
    }),
  );

  void test(
    'a page that was read without payloads is read again when a stream wants them meanwhile',
    rigged(async (rig) => {
      const plain = await (await rig.open(0n)).live();
      await rig.insert();
      const gate = rig.gated.hold(/run_events e\s+where e\.revision >/);
      rig.tail.start();
      await within(gate.reached.promise, 'the tail to have read a page');
      const full = await rig.open(0n, { payload: true });
      rig.hub.join(full.subscription, 0n, true);
      gate.open.send();
      await plain.hasEvents(1);
      await waitFor(() => full.subscription.heldBytes > 0, 'the event to be offered', 3000);
      const [event] = await takeQueued(full);
      assert.deepEqual(event?.run.input, { n: 1 });
    }),
  );

  void test(
    'a stream that becomes live while work is counted gets the events that were counted',
    rigged(async (rig) => {
      rig.wantsWork = true;
      rig.hub.setPosition(0n);
      await rig.insert(2);
      const gate = rig.gated.hold(/with fresh as/);
      rig.tail.start();
      rig.tail.ring();
      await within(gate.reached.promise, 'the work to be counted');
      const reader = await rig.open(0n);
      // It stands where the tail stands, so it joins without reading.
      await reader.opened();
      reader.pull();
      await waitFor(() => rig.hub.liveCount === 1, 'the stream to be live');
      gate.open.send();
      await reader.hasEvents(2);
      assert.deepEqual(reader.revisions, [1n, 2n]);
    }),
  );

  void test(
    'a live stream without room goes on from the page that it refused',
    rigged(async (rig) => {
      const slow = await (await rig.open(0n)).live();
      const other = await (await rig.open(0n)).live();
      let total = 0;
      while (slow.subscription.state === 'live') {
        await rig.insert(100, 'r'.repeat(256));
        total += 100;
        await rig.publish();
        await other.hasEvents(total);
        assert.ok(slow.subscription.heldBytes <= LIMITS.streamBytes, 'what a stream holds is bounded');
      }
      await slow.hasEvents(total);
      assert.deepEqual(slow.revisions, range(1, total));
    }),
  );

  void test('a reader that goes away while its write is blocked leaves nothing behind', async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    try {
      await database.pool.query(
        `insert into baton.runs (input) select jsonb_build_object('x', repeat('x', 500000)) from generate_series(1, 60)`,
      );
      const socket = await blockedWatch(baton.httpUrl);
      await untilBlocked(database, () => baton.server.service.hub.streamCount === 1);
      socket.destroy();
      await waitFor(() => baton.server.service.hub.streamCount === 0, 'the stream to be gone', 1000);
    } finally {
      await baton.stop();
      await database.drop();
    }
  });

  void test(
    'a change that is committed late is kept as long as any other',
    rigged(async ({ db }) => {
      await db.pool.query('drop table baton.run_events_p0');
      await extendLog(db.pool, PARTITION, 4);
      const late = await db.connect();
      await late.query('begin');
      await late.query(`insert into baton.runs (repository) values ('late')`);
      const insert = (): Promise<unknown> => db.pool.query('insert into baton.runs default values');
      for (let index = 0; index < 8; index += 1) await insert();
      const keepMs = 2000;
      const isOld = async (): Promise<boolean> => {
        const [row] = await db.pool.query<{ old: boolean }>(
          `select clock_timestamp() - max(append_time) > $1::bigint * interval '1 millisecond' as old
           from baton.run_events`,
          [keepMs],
        );
        return row?.old ?? false;
      };
      await waitFor(isOld, 'what was committed in time to be old', 5000);
      // Revision 9, the last of its partition: written long ago, committed now.
      await late.query('commit');
      await insert();
      assert.equal(await trimLog(db.pool, keepMs), 1n);
      await dropTrimmed(db.pool);
      const rows = await db.pool.query(`select 1 from baton.run_events where repository = 'late'`);
      assert.equal(rows.length, 1);
    }),
  );

  void test(
    'a tail whose history was dropped ends who needs that history, and nobody else',
    rigged(async (rig) => {
      const { pool } = rig.db;
      await pool.query('drop table baton.run_events_p0');
      await extendLog(pool, PARTITION, 4);
      const behind = await (await rig.open(0n)).live();
      await rig.insert(25);
      const head = await rig.head();
      const ahead = await (await rig.open(head)).live();
      const midway = await (await rig.open(head - 1n)).opened();
      await waitFor(async () => (await trimLog(pool, 1)) > 1n, 'history to be old enough to go');
      await dropTrimmed(pool);
      rig.tail.start();
      rig.tail.ring();
      await assert.rejects(
        async () => {
          while ((await behind.next('the end of its history')) !== undefined);
        },
        { reason: 'RESUME_TOKEN_TOO_OLD' },
      );
      assert.equal(rig.hub.position, undefined);
      await rig.insert();
      for (const reader of [ahead, midway]) {
        await reader.live();
        rig.tail.ring();
      }
      await ahead.hasEvents(1);
      await midway.hasEvents(2);
      assert.deepEqual(ahead.revisions, [head + 1n]);
      assert.deepEqual(midway.revisions, [head, head + 1n]);
    }),
  );

  void test(
    'a stream whose history was dropped while it caught up is told',
    rigged(async (rig) => {
      const { pool } = rig.db;
      await pool.query('drop table baton.run_events_p0');
      await extendLog(pool, PARTITION, 4);
      await rig.insert(25);
      const reader = await (await rig.open(0n)).opened();
      await waitFor(async () => (await trimLog(pool, 1)) > 1n, 'history to be old enough to go');
      await dropTrimmed(pool);
      assert.ok((await readHead(pool)).oldestRevision > 1n);
      await assert.rejects(reader.next(), { reason: 'RESUME_TOKEN_TOO_OLD' });
    }),
  );
});

async function epochOf(rig: Rig): Promise<string> {
  const [log] = await rig.db.pool.query<{ epoch: string }>('select epoch::text from baton.log');
  return log?.epoch ?? '';
}

/** What is in the queue of a stream that was made live by hand. */
async function takeQueued(reader: Reader) {
  await reader.opened();
  const message = await reader.next('what was queued');
  return message?.events ?? [];
}
