import assert from 'node:assert/strict';
import { Writable } from 'node:stream';
import { test } from 'node:test';
import { Code, ConnectError } from '@connectrpc/connect';
import { RetryInfoSchema } from '../../gen/google/rpc/error_details_pb.js';
import { LIMITS } from '../../src/base/limits.js';
import { createLogger } from '../../src/base/log.js';
import { describeOnEveryPostgres } from '../support/database.js';
import { failure } from '../support/failure.js';
import { startTestServer } from '../support/server.js';

const CALLS = 100;

/** disk_full, out_of_memory, query_canceled: what has nothing to do with the request. */
const STATES = ['53100', '53200', '57014'];

describeOnEveryPostgres('a database that refuses every write', (openDatabase) => {
  for (const state of STATES) {
    void test(`${state}: clients are asked to come again, and the log stays small`, async () => {
      const db = await openDatabase();
      const lines: Record<string, unknown>[] = [];
      const stream = new Writable({
        write(text: Buffer, _encoding, done) {
          for (const line of text.toString().trim().split('\n'))
            lines.push(JSON.parse(line) as Record<string, unknown>);
          done();
        },
      });
      const baton = await startTestServer(db.url, {}, undefined, createLogger('info', { stream }));
      await db.pool.query(
        `create function refuse() returns trigger language plpgsql as
         $$begin raise exception 'no room for run %', new.id using errcode = '${state}'; end$$`,
      );
      await db.pool.query(
        'create trigger refuse before insert on baton.runs for each row execute function refuse()',
      );
      const started = lines.length;
      const startedAt = performance.now();
      try {
        const errors = await Promise.all(
          Array.from({ length: CALLS }, async (_unused, index) => {
            const client = index % 2 === 0 ? baton.jobs : baton.httpJobs;
            const call = client.createRun({ repository: 'r' });
            const { code, reason } = await failure(call);
            const error = await call.catch((caught: unknown) => ConnectError.from(caught));
            assert.ok(error instanceof ConnectError && error.findDetails(RetryInfoSchema).length === 1);
            return `${Code[code]} ${reason}`;
          }),
        );
        assert.deepEqual(new Set(errors), new Set(['Unavailable DATABASE_UNAVAILABLE']));
        const told = lines.slice(started).filter(({ msg }) => msg === 'a call has failed');
        const windows = Math.ceil((performance.now() - startedAt) / LIMITS.logWindowMs) + 1;
        assert.ok(told.length > 0 && told.length <= windows * LIMITS.logLines, `${told.length} lines`);
        assert.deepEqual([told[0]?.['level'], told[0]?.['code'], told[0]?.['err']], [40, state, undefined]);
      } finally {
        await baton.stop();
        await db.drop();
      }
    });
  }
});
