/** Thousands of waiting ClaimNext calls: a run wakes one of them, not all, and costs the database as little. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { claimStatements, countClaims, Waiters } from '../support/claim_waiters.js';
import { describeOnEveryPostgres } from '../support/database.js';
import { startTestServer } from '../support/server.js';
import { waitFor } from '../support/wait.js';

const WAITERS_EACH = 1000;
const WAIT_MS = 50_000;
const SINGLES = 20;
const MANY = 100;

describeOnEveryPostgres('many waiting claims', (open) => {
  void test('a call that may wait behind others does not look, and is answered like them', async () => {
    const database = await open();
    const baton = await startTestServer(database.url);
    const sql = await database.connect();
    const { claims } = baton.server.service;
    const host = new URL(baton.grpcUrl).host;
    await countClaims(sql);
    const all = [new Waiters(host, 1, WAIT_MS)];
    const answered = (): number => all.reduce((sum, waiters) => sum + waiters.answered, 0);
    try {
      await waitFor(async () => (await claimStatements(sql)) > 0, 'the first call to look', 20_000);
      await waitFor(() => claims.waiting === 1, 'the first call to wait');
      const before = await claimStatements(sql);
      for (let calls = 1; calls <= SINGLES; calls += 1) {
        all.push(new Waiters(host, 1, WAIT_MS));
        await waitFor(() => claims.waiting === calls + 1, 'the next call to wait');
      }
      // The tail begins with everybody looking once, and whoever comes before the first is back looks with it.
      assert.ok((await claimStatements(sql)) - before <= 3, 'nobody looks where others wait');
      await sql.query(`insert into baton.runs (input) select '{}' from generate_series(1, $1::int)`, [
        SINGLES + 1,
      ]);
      await waitFor(() => answered() === SINGLES + 1, 'all to be answered', 20_000);
    } finally {
      for (const waiters of all) waiters.close();
      await baton.stop();
      await database.drop();
    }
  });

  void test('each run answers exactly one of 2,000 calls on two servers, and wakes no more', async () => {
    const database = await open();
    const servers = [await startTestServer(database.url), await startTestServer(database.url)];
    const sql = await database.connect();
    const all = servers.map((server) => new Waiters(new URL(server.grpcUrl).host, WAITERS_EACH, WAIT_MS));
    const answered = (): number => all.reduce((sum, waiters) => sum + waiters.answered, 0);
    const waiting = (): number => servers.reduce((sum, { server }) => sum + server.service.claims.waiting, 0);
    const create = async (runs: number): Promise<void> => {
      const before = answered();
      await sql.query('insert into baton.runs (input) select $1 from generate_series(1, $2::int)', [
        '{}',
        runs,
      ]);
      await waitFor(() => answered() === before + runs, `${runs} calls to be answered`, 20_000);
    };
    try {
      await waitFor(() => waiting() === 2 * WAITERS_EACH, 'all calls to have come', 20_000);
      await countClaims(sql);
      // Whoever has not looked yet does so before this one is answered.
      await create(1);
      let before = await claimStatements(sql);
      const startedAt = performance.now();
      for (let left = SINGLES; left > 0; left -= 1) await create(1);
      const forSingles = (await claimStatements(sql)) - before;
      before = await claimStatements(sql);
      await create(MANY);
      const forMany = (await claimStatements(sql)) - before;
      // Both servers hear of each run, and one of them comes too late. What the sweeps of both, once a second, find before
      // it is claimed is looked for as well, and then whether there is more.
      const sweeps = 2 * Math.ceil((performance.now() - startedAt) / 1000);
      assert.ok(
        forSingles <= 2 * SINGLES + 2 * sweeps,
        `${forSingles} statements for ${SINGLES} runs one by one`,
      );
      assert.ok(forMany <= 20, `${forMany} statements for ${MANY} runs at once`);
      const runs = 1 + SINGLES + MANY;
      assert.equal(waiting(), 2 * WAITERS_EACH - runs, 'everybody else still waits');
      const [row] = (
        await sql.query<{ claims: string }>(
          `select count(*) as claims from baton.run_events where type = 'CLAIMED'`,
        )
      ).rows;
      assert.deepEqual([answered(), Number(row?.claims)], [runs, runs]);
      assert.deepEqual(
        all.map(({ empty, failed }) => empty + failed),
        [0, 0],
      );
    } finally {
      for (const waiters of all) waiters.close();
      for (const server of servers) await server.stop();
      await database.drop();
    }
  });
});
